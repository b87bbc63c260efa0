"""What a worker and the child processes of its jobs say to each other, and how it is carried.

A parcel is a pickled value with its length before it, through a pipe. Both ends are ours.
"""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import JobError
from ..policy.lifecycle import described, shortened
from ..settings import Settings

HEAD = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child needs to know before its first job.

    Attributes:
        path: Where modules are found.
        modules: The modules of the tasks and hooks.
        name: What the child's log lines call it.
        logs: Whether the command line set up the log, so that the child should too.
        settings: What the worker runs with.
        worker_id: Whose jobs they are.
        backend: The event loop for `async def` handlers: `asyncio` or `trio`.
    """

    path: tuple[str, ...]
    modules: tuple[str, ...]
    name: str
    logs: bool
    settings: Settings
    worker_id: str
    backend: str


@dataclass(frozen=True, slots=True)
class Packed:
    """An error that travels.

    Attributes:
        pickled: The error itself, or its class and state; None if it cannot be carried.
        name: Its class's name.
        said: Class and message.
        traceback: The handler's part of it, as text.
    """

    pickled: bytes | None
    name: str
    said: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt ended in the child.

    Attributes:
        result: JSON text, None for None.
        error: What it failed with, or asked for by a `Signal`.
        written: Whether the handler ended its job in its own transaction.
        worn: Whether the child should not be used again.
    """

    result: str | None = None
    error: Packed | None = None
    written: bool = False
    worn: bool = False


BEGUN = Answer()
"""The child is ready, or has begun the job: from now on its death is the job's."""

# -- carrying


def wrapped(parcel: Any) -> bytes:
    """Write a parcel as it goes through the pipe."""
    body = pickle.dumps(parcel)
    return HEAD.pack(len(body)) + body


def send(pipe: int, parcel: Any) -> None:
    """Send a parcel; blocks."""
    rest = memoryview(wrapped(parcel))
    while rest:
        rest = rest[os.write(pipe, rest) :]


def receive(pipe: int) -> Any:
    """Receive a parcel; blocks.

    Raises:
        EOFError: The other end is closed.
    """
    (length,) = HEAD.unpack(_exactly(pipe, HEAD.size))
    return pickle.loads(_exactly(pipe, length))  # noqa: S301 - the worker wrote it


def _exactly(pipe: int, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        if not (more := os.read(pipe, min(size - len(got), 1 << 20))):
            raise EOFError
        got += more
    return bytes(got)


class Stream(Protocol):
    """A pipe as an event loop reads it."""

    async def receive_exactly(self, nbytes: int, /) -> bytes:
        """Give so many bytes."""
        ...


async def receive_async(pipe: Stream) -> Any:
    """Receive a parcel within an event loop."""
    (length,) = HEAD.unpack(await pipe.receive_exactly(HEAD.size))
    return pickle.loads(await pipe.receive_exactly(length))  # noqa: S301 - our child wrote it


# -- errors


def pack(error: BaseException) -> Packed:
    """Make an error ready to travel, as whole as it can."""
    return Packed(_pickled(error), type(error).__name__, described(error), shortened(error))


def unpack(packed: Packed) -> BaseException:
    """Make the error again; if its class cannot travel, one that is only named like it."""
    error: Any = None if packed.pickled is None else _loaded(packed.pickled)
    if error is None:
        said = packed.said.removeprefix(f"{packed.name}: ")
        error = type(packed.name, (JobError,), {})(said)
    if isinstance(error, StopIteration | GeneratorExit):  # they mean something to coroutines
        error = RuntimeError(f"the handler raised {packed.said}")
    error.__traceback_text__ = packed.traceback
    return error  # type: ignore[no-any-return]


def _pickled(error: BaseException) -> bytes | None:
    # Many classes take other arguments than those they hand to Exception, and cannot be unpickled.
    for form in (error, (type(error), error.args, error.__dict__)):
        with suppress(Exception):  # whatever a handler's error does
            pickled = pickle.dumps(form)
            made = _loaded(pickled)
            if type(made) is type(error) and str(made) == str(error):
                return pickled
    return None


def _loaded(pickled: bytes) -> BaseException | None:
    try:
        form = pickle.loads(pickled)  # noqa: S301 - our child wrote it
        if isinstance(form, BaseException):
            return form
        kind, args, state = form
        made: BaseException = kind.__new__(kind, *args)
        made.args = args
        made.__dict__.update(state)
    except Exception:  # noqa: BLE001 - whatever a handler's error does
        return None
    return made
