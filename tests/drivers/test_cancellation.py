"""Cancelled at any moment, a connection stays good: on asyncio, uvloop and trio."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest
from psycopg import pq

from benchmarks.chaos.road import Road
from soniq.db.aio import Database
from soniq.errors import DatabaseTimeout
from soniq.settings import Settings
from soniq.steps import Atomic, Batch, CopyIn, Query

from .conftest import ask, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize(
        "anyio_backend",
        ["asyncio", ("asyncio", {"use_uvloop": True}), "trio"],
        ids=["asyncio", "uvloop", "trio"],
    ),
]

SLEEPING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep(60)%'"
)


@pytest.fixture
async def db(anyio_backend: Any, scratch: str) -> Any:
    database = Database(Settings().with_(pool_max_size=4), url=lambda: scratch)
    yield database
    await database.close()


async def pids(db: Database) -> set[int]:
    """Hold all four connections at once and tell whose they are."""
    async with db.acquire() as a, db.acquire() as b, db.acquire() as c, db.acquire() as d:
        held = (a, b, c, d)
        assert [await conn.fetchval("SELECT 1") for conn in held] == [1] * 4
        return {conn.info.backend_pid for conn in held}


async def test_a_storm_of_800_cancellations_leaves_4_good_connections(db: Database) -> None:
    """psycopg's own class makes 91 connections here, and breaks 87 of them."""
    before = await pids(db)
    dice = random.Random(4)
    patience = [dice.uniform(0, 0.02) for _ in range(800)]
    cancelled = 0

    async def one(seconds: float) -> None:
        nonlocal cancelled
        with anyio.move_on_after(seconds) as scope:
            await db.run(ask, "SELECT pg_sleep(60)")
        cancelled += scope.cancelled_caught

    for start in range(0, 800, 20):
        async with anyio.create_task_group() as tasks:
            for seconds in patience[start : start + 20]:
                tasks.start_soon(one, seconds)
    assert cancelled == 800
    assert await pids(db) == before


async def test_a_transaction_behind_a_network_that_swallows_is_given_up(scratch: str) -> None:
    """BEGIN and COMMIT cannot be cancelled: a worker with one of them under way never ended."""
    with Road(scratch) as road:
        db = Database(Settings().with_(statement_timeout=0.3), url=lambda: road.url)
        async with db.acquire() as connection:
            road.swallow()
            with anyio.fail_after(10), pytest.raises(DatabaseTimeout):
                async with connection.transaction():
                    raise AssertionError("nobody answers BEGIN")
        await db.close()


async def test_a_cancelled_query_is_stopped_on_the_server(db: Database, witness: Any) -> None:
    before = await pids(db)
    running = SLEEPING
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(db.run, ask, "SELECT pg_sleep(60)")
        await until(lambda: witness(running) == [(1,)])
        tasks.cancel_scope.cancel()
    assert witness(running + " AND state = 'active'") == [(0,)]
    assert await pids(db) == before


@pytest.mark.parametrize("kind", ["atomic", "acquired", "batch", "copy"])
async def test_cancelled_in_the_middle_nothing_is_written_and_all_is_well(
    db: Database, witness: Any, kind: str
) -> None:
    witness("CREATE TABLE t (n int)")
    insert: Query[None] = Query("INSERT INTO t VALUES (1)")
    sleep: Query[None] = Query("SELECT pg_sleep(60)")

    def inner() -> Any:
        yield from insert
        yield from sleep

    def chunks() -> Any:
        for _ in range(100):
            yield b"1\n" * 100_000

    steps = {
        "atomic": lambda: Atomic(inner()),
        "batch": lambda: Batch([insert, sleep, insert]),
        "copy": lambda: CopyIn("COPY t (n) FROM STDIN", chunks()),
    }

    def operation() -> Any:
        yield from steps[kind]()

    async def acquired() -> None:
        async with db.acquire() as conn, conn.transaction():
            await conn.execute("INSERT INTO t VALUES (1)")
            await conn.execute("SELECT pg_sleep(60)")

    busy = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND state = 'active'"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(acquired) if kind == "acquired" else tasks.start_soon(db.run, operation)
        await until(lambda: witness(busy) == [(1,)])
        tasks.cancel_scope.cancel()
    assert witness("SELECT count(*) FROM t") == [(0,)]
    assert len(await pids(db)) == 4


async def test_a_cancelled_operation_is_closed_and_cannot_catch_it(
    db: Database, witness: Any
) -> None:
    ended = []

    def operation() -> Any:
        try:
            yield from Query("SELECT pg_sleep(60)")
        except Exception as error:
            ended.append(error)
        finally:
            ended.append("closed")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(db.run, operation)
        await until(lambda: witness(SLEEPING) == [(1,)])
        tasks.cancel_scope.cancel()
    assert ended == ["closed"]


async def test_a_connection_keeps_its_promises_under_a_savepoint(db: Database) -> None:
    async with db.acquire() as conn:
        async with conn.transaction():
            with anyio.move_on_after(0.05):
                async with conn.transaction():
                    await conn.execute("SELECT pg_sleep(60)")
            assert await conn.fetchval("SELECT 1") == 1
        assert conn.info.transaction_status == pq.TransactionStatus.IDLE


async def test_large_answers_and_questions_go_through(db: Database) -> None:
    text = "x" * 3_000_000
    async with db.acquire() as conn:
        assert await conn.fetchval("SELECT %s::text || %s::text", text, text) == text * 2
        async with conn.pipeline():
            cursors = [await conn.execute("SELECT %s::int", [n]) for n in range(500)]
        assert [(await cursor.fetchone())[0] for cursor in cursors] == list(range(500))


async def test_one_connection_may_be_shared_by_tasks(db: Database) -> None:
    async with db.acquire() as conn:

        async def one(n: int) -> None:
            assert await conn.fetchval("SELECT %s::int", n) == n

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(one, n)


async def test_a_connection_closed_under_a_waiting_task_tells_it(
    db: Database, witness: Any
) -> None:
    conn = await db.connect()
    told = []

    async def wait() -> None:
        try:
            await conn.execute("SELECT pg_sleep(60)")
        except Exception as error:
            told.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        running = SLEEPING
        await until(lambda: witness(running) == [(1,)])
        with anyio.fail_after(5):
            await conn.close()
    assert len(told) == 1
