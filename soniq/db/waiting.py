"""Doing on anyio what `psycopg.waiting` does on asyncio: wait for what its generators ask."""

from __future__ import annotations

import select
from time import monotonic
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from psycopg import errors as e
from psycopg.abc import RV, PQGen, PQGenConn
from psycopg.waiting import Ready, Wait

_BUSY = 0.005  # seconds a socket that is always ready may keep the loop from others; psycopg's own


async def wait_on_anyio(gen: PQGen[RV], socket: int, seconds: float | None) -> RV:
    """Do on anyio what `psycopg.waiting.wait_async` does on asyncio."""
    deadline = None if seconds is None else monotonic() + seconds
    busy_since = monotonic()
    try:
        wanted = next(gen)
        while True:
            if monotonic() - busy_since > _BUSY:
                await checkpoint()
                busy_since = monotonic()
            wanted = gen.send(await _ready(socket, wanted, deadline))
    except OSError as error:
        raise e.OperationalError("connection socket closed") from error
    except StopIteration as end:
        answer: RV = end.value
        return answer


async def wait_connecting(gen: PQGenConn[RV], seconds: float | None) -> RV:
    """Do on anyio what `psycopg.waiting.wait_conn_async` does on asyncio."""
    deadline = None if not seconds else monotonic() + seconds
    try:
        socket, wanted = next(gen)
        while True:
            socket, wanted = gen.send(await _ready(socket, wanted, deadline))
    except OSError as error:
        raise e.OperationalError("connection socket closed") from error
    except StopIteration as end:
        answer: RV = end.value
        return answer
    finally:
        gen.close()  # it holds the half-made connection; a traceback would keep both for a while


async def _ready(socket: int, wanted: Wait, deadline: float | None) -> Ready:
    """Wait until the socket is ready for what is wanted.

    Raises:
        psycopg.errors._WaitTimeout: It was not before the deadline, by `time.monotonic`.
    """
    if wanted & Wait.W and (ready := _polled(socket, wanted)):
        return ready
    if deadline is None:
        return await _awaited(socket, wanted)
    with anyio.move_on_after(max(0.0, deadline - monotonic())):
        return await _awaited(socket, wanted)
    if ready := _polled(socket, wanted):  # a timeout of 0 looks once
        return ready
    raise e._WaitTimeout("wait timeout expired")


async def _awaited(socket: int, wanted: Wait) -> Ready:
    if wanted == Wait.R:
        await anyio.wait_readable(socket)
        return Ready.R
    if wanted == Wait.W:
        await anyio.wait_writable(socket)
        return Ready.W
    async with anyio.create_task_group() as either:

        async def first(wait: Any) -> None:
            await wait(socket)
            either.cancel_scope.cancel()

        either.start_soon(first, anyio.wait_readable)
        either.start_soon(first, anyio.wait_writable)
    return _polled(socket, wanted)


def _polled(socket: int, wanted: Wait) -> Ready:
    poll = select.poll()
    events = (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0)
    poll.register(socket, events)
    ready = 0
    for _, event in poll.poll(0):
        ready |= Ready.R if event & ~select.POLLOUT else 0
        ready |= Ready.W if event & ~select.POLLIN else 0
    return Ready(ready)
