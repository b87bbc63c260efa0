"""The ceilings of a worker: what hand-written loops on bare psycopg reach, each its own program.

    python -m benchmarks.bare_worker drain|threads URL --jobs N [--plain] [--concurrency 10]
    python -m benchmarks.bare_worker listen|consume URL

`drain` claims 400 at a time on one connection while another deletes what is done: no history, no
retries, no deadlines, no heartbeat, no fencing. `threads` does the same with a pool of threads.
`listen` claims one job for each notification. `consume` drains until it is told to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import psycopg

from .process import say

BATCH = 400

CLAIM = """
    WITH picked AS (
        SELECT id FROM bare.jobs
        WHERE state = 'queued' AND queue = $1 AND scheduled_at <= now()
        ORDER BY priority, scheduled_at, id LIMIT $2 FOR UPDATE SKIP LOCKED)
    UPDATE bare.jobs j SET state = 'processing', attempt = attempt + 1,
        worker_id = '00000000-0000-7000-8000-000000000000', started_at = now()
    FROM picked WHERE j.id = picked.id
    RETURNING j.id, j.task, j.args, j.attempt, j.max_attempts, j.priority, j.scheduled_at,
        j.created_at"""
DELETE = "DELETE FROM bare.jobs WHERE id = ANY ($1)"
CLAIM_ONE = CLAIM.replace("$1", "'default'").replace("$2", "1")


async def noop(i: int) -> None: ...


def noop_sync(i: int) -> None: ...


def main() -> int:
    options = _options()
    if not options.plain:
        _use_orjson()
    match options.what:
        case "drain":
            _on_loop(drain, options)
        case "threads":
            in_threads(options.url, options.concurrency)
        case "listen":
            listen(options.url)
        case "consume":
            _on_loop(consume, options)
    say("ended")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["drain", "threads", "listen", "consume"])
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--concurrency", type=int, default=10)
    return parser.parse_args()


def _use_orjson() -> None:
    import orjson
    from psycopg.types.json import set_json_loads

    set_json_loads(orjson.loads)


def _on_loop(program: Callable[[str, int, int], Awaitable[None]], options: Any) -> None:
    uvloop = {"use_uvloop": not options.plain}
    anyio.run(program, options.url, options.jobs, options.concurrency, backend_options=uvloop)


async def drain(url: str, jobs: int, concurrency: int) -> None:
    """Run a number of jobs, and end."""
    async with await _connect(url) as claiming, await _connect(url) as deleting:
        say("ready")
        await Loop(claiming, deleting, concurrency).run(jobs)


async def consume(url: str, jobs: int, concurrency: int) -> None:
    """Run jobs until told to stop; polling, for nobody notifies."""
    async with await _connect(url) as claiming, await _connect(url) as deleting:
        loop = Loop(claiming, deleting, concurrency)
        told = asyncio.get_running_loop()
        _when_told(lambda: told.call_soon_threadsafe(loop.stop))
        say("ready")
        await loop.run(sys.maxsize)


async def _connect(url: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


class Loop:
    """Claims and deletes by turns, without a deadline for each job: the quicker form."""

    def __init__(
        self,
        claiming: psycopg.AsyncConnection,
        deleting: psycopg.AsyncConnection,
        concurrency: int,
    ) -> None:
        self._claim = psycopg.AsyncRawCursor(claiming)
        self._delete = psycopg.AsyncRawCursor(deleting)
        self._concurrency = concurrency
        self._pending: deque[Any] = deque()
        self._done: list[Any] = []
        self._work = anyio.Event()
        self._drained = anyio.Event()
        self._finished = anyio.Event()
        self._stopped = False

    def stop(self) -> None:
        """End, whatever is left."""
        self._stopped = True
        for event in (self._work, self._drained, self._finished):
            event.set()

    async def run(self, jobs: int) -> None:
        """Run so many jobs."""
        async with anyio.create_task_group() as tasks:
            for _ in range(self._concurrency):
                tasks.start_soon(self._runner)
            tasks.start_soon(self._deleter, jobs)
            tasks.start_soon(self._claimer, jobs)

    async def _runner(self) -> None:
        while not self._stopped:
            if not self._pending:
                await self._work.wait()
                continue
            row = self._pending.popleft()
            if len(self._pending) < BATCH // 2 and not self._drained.is_set():
                self._drained.set()
            await noop(**row[2])
            self._done.append(row[0])
            if not self._finished.is_set():
                self._finished.set()
            await asyncio.sleep(0)

    async def _deleter(self, jobs: int) -> None:
        deleted = 0
        while deleted < jobs and not self._stopped:
            await self._finished.wait()
            self._finished = anyio.Event()
            ids, self._done = self._done, []
            if ids:
                await self._delete.execute(DELETE, (ids,))
                deleted += len(ids)
        self.stop()

    async def _claimer(self, jobs: int) -> None:
        claimed = 0
        while claimed < jobs and not self._stopped:
            await self._claim.execute(CLAIM, ("default", BATCH), binary=True)
            rows = await self._claim.fetchall()
            claimed += len(rows)
            if not rows:
                await anyio.sleep(0.005)
                continue
            self._drained = anyio.Event()
            self._pending.extend(rows)
            woken, self._work = self._work, anyio.Event()
            woken.set()
            if len(self._pending) >= BATCH // 2 and not self._stopped:
                await self._drained.wait()


def in_threads(url: str, concurrency: int) -> None:
    """Hand each claimed batch to a pool of threads, and claim the next while they run."""
    with (
        psycopg.connect(url, autocommit=True) as connection,
        ThreadPoolExecutor(concurrency) as threads,
    ):
        cursor = psycopg.RawCursor(connection)
        say("ready")
        rows = _claimed(cursor)
        while rows:
            results = threads.map(lambda row: noop_sync(**row[2]), rows)
            ids = [row[0] for row in rows]
            rows = _claimed(cursor)
            for _ in results:
                pass
            cursor.execute(DELETE, (ids,))


def _claimed(cursor: psycopg.RawCursor[Any]) -> list[Any]:
    return cursor.execute(CLAIM, ("default", BATCH), binary=True).fetchall()


def listen(url: str) -> None:
    """Claim one job for each notification, note its start, delete it."""
    stamps = os.open(os.environ["SONIQ_BENCHMARK_STAMPS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with (
        psycopg.connect(url, autocommit=True) as ear,
        psycopg.connect(url, autocommit=True) as hand,
    ):
        ear.execute("LISTEN bare")
        _when_told(lambda: _notify_end(url))
        say("ready")
        for notice in ear.notifies():
            if notice.payload == "end":
                return
            for row in hand.execute(CLAIM_ONE, binary=True).fetchall():
                os.write(stamps, b"%d %d\n" % (row[2]["i"], time.time_ns()))
                hand.execute("DELETE FROM bare.jobs WHERE id = %s", (row[0],))


def _notify_end(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("NOTIFY bare, 'end'")


def _when_told(do: Callable[[], object]) -> None:
    def read() -> None:
        sys.stdin.readline()
        do()

    threading.Thread(target=read, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
