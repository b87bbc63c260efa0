"""`soniq enqueue NAME --from FILE`: a job for each line."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import click

from ..errors import DuplicateJob, InvalidArguments, PayloadTooLarge, UsageError
from ..job.codec import decode

if TYPE_CHECKING:
    from ..client.sync import SoniqSync
    from ..job.task import Task, TaskRef

_PLACE = re.compile(r"Job \d+ of the list: ")


# An escape takes up to three times the bytes of what it stands for: \\u00fc six, ü two.
ESCAPED = 3
# What else a line that is not too large may have: spaces, a byte order mark.
SPARE_BYTES = 1024


class Lines:
    """The objects of a file of JSON lines; empty lines are passed over.

    Args:
        file: JSON lines.
        limit: Most bytes of one job's arguments; no more than a few times that is ever in memory.

    Attributes:
        number: The line that was given last; the first is 1.
        size: Bytes of the lines given so far.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self._limit = limit
        self._most = ESCAPED * limit + SPARE_BYTES
        self._next = b""
        self._read = 0
        self.number = 0
        self.size = 0

    def more(self) -> bool:
        """Look whether there is another line."""
        while not self._next.strip() and len(self._next) <= self._most:
            self._next = self._file.readline(self._most + 1)
            self._read += 1
            if not self._next:
                return False
        return True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if not self.more():
            raise StopIteration
        line, self._next = self._next, b""
        self.number = self._read
        self.size += len(line)
        if len(line) > self._most:
            raise PayloadTooLarge(
                f"it is longer than {self._most:,} bytes; max_payload_bytes is {self._limit:,} for "
                "a job's arguments. Store the data elsewhere and pass a reference, or raise the "
                "setting."
            )
        return _object(line)


def enqueue_lines(
    client: SoniqSync, target: Task[..., Any] | TaskRef, file: IO[bytes], each: int | None
) -> int:
    """Enqueue a job for each line of a file; answer how many.

    Args:
        client: The application's client.
        target: The task, with the options of the jobs.
        file: JSON lines.
        each: Commit after so many jobs; None commits once, at the end.

    Raises:
        UsageError: A line cannot be a job; it says which, and what was stored.
    """
    lines, stored, upto = Lines(file, client.settings.max_payload_bytes), 0, 0
    try:
        with _progress(file, lines) as show:
            while lines.more():
                part = islice(lines, each)
                stored += client.enqueue_stream(target, part, progress=partial(show, stored))
                upto = lines.number
    except UsageError as error:
        place = _PLACE.match(str(error))
        if place is None or isinstance(error, DuplicateJob):
            raise
        reason = str(error)[place.end() :]
        raise UsageError(f"Line {lines.number}: {reason} {_said(stored, upto)}") from None
    except BaseException:
        if stored:
            click.echo(f"soniq: {_said(stored, upto)}", err=True)
        raise
    return stored


@contextmanager
def _progress(file: IO[bytes], lines: Lines) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how far it is, if a person looks: a bar, or a number where there is no end."""
    if not sys.stderr.isatty():
        yield lambda _, __: None
    elif size := _size(file):
        with click.progressbar(length=size, label="Enqueueing", file=sys.stderr) as bar:
            yield lambda _, __: bar.update(lines.size - bar.pos)
    else:
        yield lambda before, sent: click.echo(f"\rEnqueueing {before + sent:,}", err=True, nl=False)
        click.echo(err=True)


def _size(file: IO[bytes]) -> int:
    """Tell the size of a file that has one."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = decode(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidArguments(f"this is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidArguments('arguments go by name: an object such as {"user_id": 1}.')
    return value


def _said(stored: int, upto: int) -> str:
    if not stored:
        return "Nothing was stored."
    return f"The {stored:,} jobs of the lines up to {upto:,} were stored."
