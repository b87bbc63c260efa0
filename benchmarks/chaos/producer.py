"""Enqueue in every way there is, noting what was acknowledged.

Whoever gets an error does not know whether the job is there; that is noted too, and the next job
has another key. So the job of an unknown key may be there once or not at all, and never twice.
"""

from __future__ import annotations

import argparse
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio
import psycopg

from soniq.errors import SoniqError

from .application import LIMITED, TASKS, app, ledger

BULK = 10
PATIENCE = 5.0
"""Seconds a caller of ours has for its transaction."""
LONGEST = "SONIQ_CHAOS_LONGEST"
"""The variable that says how many seconds the longest of the usual jobs takes."""
WHICH = "SONIQ_CHAOS_LIMITED"
"""The variable that says that the tasks are those with limits."""


class Share:
    """The jobs that one way of enqueuing has to bring in, at a steady pace.

    Args:
        name: What its keys begin with.
        jobs: How many must be acknowledged.
        seconds: Time they are spread over.
    """

    def __init__(self, name: str, jobs: int, seconds: float) -> None:
        self.name, self.jobs = name, jobs
        self._pace = seconds / max(1, jobs)
        self._began = time.monotonic()
        self._tried = 0
        self._longest = float(os.environ.get(LONGEST, "0.2"))
        self._tasks = LIMITED if WHICH in os.environ else TASKS
        self.acknowledged = 0

    @property
    def complete(self) -> bool:
        return self.acknowledged >= self.jobs

    def pause(self) -> float:
        """Seconds until the next is due."""
        return max(0.0, self._began + self._pace * self._tried - time.monotonic())

    def draw(self) -> tuple[Any, dict[str, Any]]:
        """Choose the next job's task and arguments."""
        self._tried += 1
        key = f"{self.name}{os.getpid()}-{self._tried}"
        task = self._tasks[self._tried % len(self._tasks)]
        return task, {"key": key, "seconds": random.random() * self._longest}

    def noted(self, keys: Sequence[str], ids: Sequence[str]) -> None:
        for key, job in zip(keys, ids, strict=True):
            ledger.note("ack", key=key, job=job)
        self.acknowledged += len(keys)

    def failed(self, keys: Sequence[str], error: BaseException, seconds: float) -> None:
        for key in keys:
            said = f"{type(error).__name__}: {error}"
            ledger.note("unknown", key=key, error=said, seconds=seconds)


async def one_by_one(share: Share) -> None:
    """By the async client, on its own pool."""
    while not share.complete:
        await anyio.sleep(share.pause())
        task, args = share.draw()
        await _attempt(share, [args["key"]], lambda task=task, args=args: _one(task, args))


async def _one(task: Any, args: dict[str, Any], connection: object = None) -> list[str]:
    return [await app.enqueue(task, args=args, connection=connection)]


async def in_bulk(share: Share) -> None:
    """By `enqueue_many`, ten at once."""
    while not share.complete:
        await anyio.sleep(share.pause())
        drawn = [share.draw() for _ in range(BULK)]
        task, rows = drawn[0][0], [args for _, args in drawn]
        await _attempt(
            share, [row["key"] for row in rows], lambda task=task, rows=rows: _many(task, rows)
        )


async def _many(task: Any, rows: list[dict[str, Any]]) -> list[str]:
    return list(await app.enqueue_many(task, rows))


async def in_transactions(share: Share) -> None:
    """On a connection of the caller's, together with a row of theirs."""
    connection: list[psycopg.AsyncConnection[Any]] = []
    while not share.complete:
        await anyio.sleep(share.pause())
        task, args = share.draw()

        async def order(task: Any = task, args: dict[str, Any] = args) -> list[str]:
            with anyio.fail_after(PATIENCE):  # psycopg by itself waits for ever
                if not connection:
                    url = app.settings.database_url or ""
                    connection.append(await psycopg.AsyncConnection.connect(url, connect_timeout=2))
                async with connection[0].transaction():
                    await connection[0].execute("INSERT INTO orders VALUES (%s)", (args["key"],))
                    return await _one(task, args, connection[0])

        if not await _attempt(share, [args["key"]], order):
            while connection:
                await connection.pop().close()
    for each in connection:
        await each.close()


async def from_sync_code(share: Share) -> None:
    """By the sync client, in a thread."""

    def produce() -> None:
        while not share.complete:
            threading.Event().wait(share.pause())  # libfaketime breaks time.sleep()
            task, args = share.draw()
            began = time.monotonic()
            try:
                share.noted([args["key"]], [app.sync.enqueue(task.name, args=args)])
            except (SoniqError, psycopg.Error) as error:
                share.failed([args["key"]], error, time.monotonic() - began)
                threading.Event().wait(0.05)

    await anyio.to_thread.run_sync(produce)


async def _attempt(
    share: Share, keys: Sequence[str], enqueue: Callable[[], Awaitable[list[str]]]
) -> bool:
    began = time.monotonic()
    try:
        share.noted(keys, await enqueue())
    except (SoniqError, psycopg.Error, TimeoutError) as error:
        share.failed(keys, error, time.monotonic() - began)
        await anyio.sleep(0.05)
        return False
    return True


WAYS = {"a": one_by_one, "b": in_bulk, "t": in_transactions, "s": from_sync_code}


async def produce(jobs: int, seconds: float) -> None:
    async with app, anyio.create_task_group() as ways:
        for name, share in zip(WAYS, _shares(jobs), strict=True):
            ways.start_soon(WAYS[name], Share(name, share, seconds))


def _shares(jobs: int) -> Iterator[int]:
    share = jobs // len(WAYS)
    yield jobs - share * (len(WAYS) - 1)
    yield from [share] * (len(WAYS) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    anyio.run(produce, options.jobs, options.seconds)


if __name__ == "__main__":
    main()
