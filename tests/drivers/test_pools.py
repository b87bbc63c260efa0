"""Connections lent and taken back: what breaks, what runs out, and whose they are."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import pq
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from soniq.db import aio, sync, sync_pool
from soniq.db import pool as async_pool
from soniq.db.connection import AnyioConnection
from soniq.db.sync_connection import Connection
from soniq.errors import (
    ConnectionLost,
    DatabaseTimeout,
    ReadOnlyServer,
    UsageError,
)
from soniq.settings import Settings
from soniq.steps import Script

from .conftest import Colour, ask, entered, settled, until

pytestmark = pytest.mark.anyio

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def anyio_backend(colour_name: str) -> str:
    return "trio" if colour_name == "trio" else "asyncio"


async def pid_of(db: Any) -> int:
    return int((await settled(db.run(ask, PID)))[0][0])


async def test_nothing_is_connected_before_the_first_use(colour: Colour, witness: Any) -> None:
    asked = []
    kind = aio if colour.is_async else sync
    db: Any = kind.Database(Settings(), url=lambda: asked.append(1) or colour.url)  # type: ignore[func-returns-value]
    assert asked == []
    await settled(db.run(ask, "SELECT 1"))
    await settled(db.run(ask, "SELECT 1"))
    await settled(db.close())
    assert asked == [1]


async def test_fetching_takes_either_placeholder(colour: Colour) -> None:
    async with entered(colour.database().acquire()) as conn:
        assert isinstance(conn, AnyioConnection if colour.is_async else Connection)
        assert await settled(conn.fetchval("SELECT $1::int + $2::int", 1, 2)) == 3
        assert await settled(conn.fetchval("SELECT %s::text", "a")) == "a"
        assert await settled(conn.fetchval("SELECT '5%'")) == "5%"
        assert await settled(conn.fetchval("SELECT 1 WHERE false")) is None
        assert await settled(conn.fetchrow("SELECT 1, $1::text", "b")) == (1, "b")
        assert await settled(conn.fetchrow("SELECT 1 WHERE false")) is None
        sql = "SELECT generate_series(1, %s)"
        assert await settled(conn.fetch(sql, 2)) == [(1,), (2,)]
        conn.row_factory = dict_row
        assert await settled(conn.fetchval("SELECT 4 AS n")) == 4
        assert await settled(conn.fetchrow("SELECT 4 AS n")) == {"n": 4}


async def test_a_connection_to_a_server_that_was_demoted_is_not_used_again(
    colour: Colour, witness: Any
) -> None:
    """It stayed in the pool for ever, while the URL named another host that was the primary."""
    witness("CREATE TABLE t (n int)")
    db = colour.database(pool_max_size=1)
    before = await pid_of(db)
    await settled(db.run(ask, "SET default_transaction_read_only = on"))
    with pytest.raises(ReadOnlyServer):
        await settled(db.run(ask, "INSERT INTO t VALUES (1)"))
    await settled(db.run(ask, "INSERT INTO t VALUES (1)"))
    assert await pid_of(db) != before


async def test_nor_is_any_other_of_its_pool(colour: Colour, witness: Any) -> None:
    """Those that lay idle stayed on the demoted server, and each failed when its turn came."""
    witness("CREATE TABLE t (n int)")
    db = colour.database(pool_min_size=2, pool_max_size=2)
    async with entered(db.acquire()) as first, entered(db.acquire()) as second:
        for conn in (first, second):
            await settled(conn.execute("SET default_transaction_read_only = on"))
    with pytest.raises(ReadOnlyServer):
        await settled(db.run(ask, "INSERT INTO t VALUES (1)"))
    async with entered(db.acquire()) as first, entered(db.acquire()) as second:
        for conn in (first, second):
            await settled(conn.execute("INSERT INTO t VALUES (1)"))


async def test_nor_is_one_that_was_lent_meanwhile(colour: Colour, witness: Any) -> None:
    witness("CREATE TABLE t (n int)")
    db = colour.database(pool_min_size=1, pool_max_size=2)
    async with entered(db.acquire()) as kept:
        await settled(kept.execute("SET default_transaction_read_only = on"))
        async with entered(db.acquire()) as other:
            await settled(other.execute("SET default_transaction_read_only = on"))
        with pytest.raises(ReadOnlyServer):
            await settled(db.run(ask, "INSERT INTO t VALUES (1)"))
    async with entered(db.acquire()) as first, entered(db.acquire()) as second:
        for conn in (first, second):
            await settled(conn.execute("INSERT INTO t VALUES (1)"))


async def test_nor_is_one_on_which_a_borrower_found_out(colour: Colour, witness: Any) -> None:
    witness("CREATE TABLE t (n int)")
    db = colour.database(pool_max_size=1)
    before = await pid_of(db)

    async def write() -> None:
        async with entered(db.acquire()) as conn:
            await settled(conn.execute("SET default_transaction_read_only = on"))
            await settled(conn.execute("INSERT INTO t VALUES (1)"))

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await write()
    assert await pid_of(db) != before


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    colour: Colour, witness: Any
) -> None:
    """Behind a network that swallowed what was sent, an enqueue hung until the process ended."""
    db = colour.database(pool_max_size=1, statement_timeout=0.2)
    before = await pid_of(db)
    with pytest.raises(DatabaseTimeout, match="statement_timeout"):
        await settled(db.run(ask, "SELECT pg_sleep(60)"))
    assert await pid_of(db) != before


async def test_a_migration_and_a_borrower_may_take_their_time(colour: Colour) -> None:
    def script() -> Any:
        yield from Script("SELECT pg_sleep(0.3)")

    db = colour.database(pool_max_size=1, statement_timeout=0.1)
    await settled(db.run(script))
    async with entered(db.acquire()) as conn:
        await settled(conn.execute("SELECT pg_sleep(0.3)"))


async def test_an_acquired_connection_is_in_autocommit(colour: Colour, witness: Any) -> None:
    async with entered(colour.database().acquire()) as conn:
        await settled(conn.execute("CREATE TABLE t (n int)"))
        assert witness("SELECT count(*) FROM t") == [(0,)]


async def test_what_a_borrower_leaves_behind_is_undone(
    colour: Colour, witness: Any, caplog: pytest.LogCaptureFixture
) -> None:
    witness("CREATE TABLE t (n int)")
    db = colour.database(pool_max_size=1)
    async with entered(db.acquire()) as conn:
        await settled(conn.execute("BEGIN"))
        await settled(conn.execute("INSERT INTO t VALUES (1)"))
        conn.row_factory = dict_row
        pid = conn.info.backend_pid
    assert "rolled back" in caplog.text
    assert witness("SELECT n FROM t") == []
    async with entered(db.acquire()) as conn:
        assert conn.info.backend_pid == pid
        assert await settled(conn.fetchrow("SELECT 1")) == (1,)
        if colour.is_async:
            await conn.set_autocommit(False)
        else:
            conn.autocommit = False
    async with entered(db.acquire()) as conn:
        assert conn.autocommit


async def test_a_pool_that_is_used_up_says_so_in_time(colour: Colour) -> None:
    db = colour.database(pool_max_size=1, pool_timeout=0.2)
    async with entered(db.acquire()):
        began = time.monotonic()
        with pytest.raises(DatabaseTimeout, match=r"all 1 .*pool_max_size"):
            await settled(db.run(ask, "SELECT 1"))
        assert 0.15 < time.monotonic() - began < 5
    assert await settled(db.run(ask, "SELECT 1")) == [(1,)]


async def test_terminated_connections_cost_the_callers_no_error(
    colour: Colour, terminate: Any
) -> None:
    """As after a restart: all four stale ones are found dead before they are handed out."""
    db = colour.database(pool_max_size=4)
    async with entered(db.acquire()) as a, entered(db.acquire()) as b:
        async with entered(db.acquire()) as c, entered(db.acquire()) as d:
            before = {conn.info.backend_pid for conn in (a, b, c, d)}
    assert len(before) == 4
    assert terminate() >= 4  # one of the test before may still be closing
    for _ in range(8):
        assert await pid_of(db) not in before


async def test_a_connection_that_dies_in_use_is_replaced(colour: Colour, terminate: Any) -> None:
    db = colour.database(pool_max_size=1)
    async with entered(db.acquire()) as conn:
        terminate()
        with pytest.raises(psycopg.OperationalError):
            await settled(conn.execute("SELECT 1"))
    assert await settled(db.run(ask, "SELECT 1")) == [(1,)]


async def test_a_statement_whose_connection_dies_is_not_sent_twice(
    colour: Colour, witness: Any
) -> None:
    witness("CREATE SEQUENCE s")
    db = colour.database()
    sql = "SELECT nextval('s'), pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(ConnectionLost):
        await settled(db.run(ask, sql))
    assert witness("SELECT last_value FROM s") == [(1,)]


async def test_a_long_idle_connection_must_answer_first(
    colour: Colour, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (async_pool, sync_pool):
        monkeypatch.setattr(module, "CHECK_AFTER", 0.0)
    db = colour.database(pool_max_size=1)
    assert await pid_of(db) == await pid_of(db)


async def test_a_close_is_followed_by_a_new_pool_at_the_next_use(colour: Colour) -> None:
    db = colour.database()
    before = await pid_of(db)
    await settled(db.close())
    assert await pid_of(db) != before
    await settled(db.close())
    await settled(db.close())


async def test_the_users_pool_is_used_as_it_is(colour: Colour, witness: Any) -> None:
    """Its connections are not in autocommit; what we do is committed all the same."""
    witness("CREATE TABLE t (n int)")
    if colour.name == "trio":
        pytest.skip("psycopg_pool has no pool for trio")
    kind: Any = AsyncConnectionPool if colour.is_async else ConnectionPool
    async with entered(kind(colour.url, min_size=1, max_size=1, open=False)) as pool:
        db = colour.database(pool=pool)
        await settled(db.run(ask, "INSERT INTO t VALUES (1)"))
        async with entered(db.acquire()) as conn:
            await settled(conn.execute("INSERT INTO t VALUES (2)"))
        assert witness("SELECT count(*) FROM t") == [(2,)]
        await settled(db.close())
        async with entered(pool.connection()) as conn:
            assert not conn.autocommit
            pid = conn.info.backend_pid
        witness("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert await settled(db.run(ask, "SELECT 1")) == [(1,)]


async def test_the_users_pool_may_be_exhausted_or_not_open(colour: Colour) -> None:
    if colour.name == "trio":
        pytest.skip("psycopg_pool has no pool for trio")
    kind: Any = AsyncConnectionPool if colour.is_async else ConnectionPool
    pool = kind(colour.url, min_size=1, max_size=1, open=False)
    db = colour.database(pool=pool, pool_timeout=0.2)
    with pytest.raises(UsageError, match="not open"):
        await settled(db.run(ask, "SELECT 1"))
    async with entered(pool), entered(pool.connection()):
        with pytest.raises(DatabaseTimeout, match="max_size"):
            await settled(db.run(ask, "SELECT 1"))


async def test_a_factory_makes_the_connections(colour: Colour) -> None:
    made = []

    def factory() -> Any:
        made.append(1)
        kind: Any = AnyioConnection if colour.is_async else Connection
        return kind.connect(colour.url)

    db = colour.database(connection_factory=factory, pool_max_size=2)
    assert await settled(db.run(ask, "SELECT 1")) == [(1,)]
    async with entered(db.acquire()) as conn:
        assert conn.autocommit
    assert made == [1]


async def test_a_factory_that_fails_is_heard_at_once(colour: Colour) -> None:
    def factory() -> Any:
        raise LookupError("no token")

    db = colour.database(connection_factory=factory)
    with pytest.raises(LookupError, match="no token"):
        await settled(db.run(ask, "SELECT 1"))


async def test_a_connection_of_its_own_is_set_up_alike(colour: Colour, witness: Any) -> None:
    conn = await settled(colour.database().connect())
    try:
        assert conn.autocommit
        assert conn.prepare_threshold == 5
        assert witness("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'soniq'")
    finally:
        await settled(conn.close())


async def test_prepared_statements_can_be_switched_off(colour: Colour) -> None:
    async with entered(colour.database(pgbouncer=True).acquire()) as conn:
        assert conn.prepare_threshold is None


async def test_a_waiter_for_a_connection_can_be_cancelled(colour: Colour) -> None:
    if not colour.is_async:
        pytest.skip("sync code is not cancelled")
    db = colour.database(pool_max_size=1)
    async with db.acquire():
        with anyio.move_on_after(0.05) as scope:
            await db.run(ask, "SELECT 1")
        assert scope.cancelled_caught
    assert await db.run(ask, "SELECT 1") == [(1,)]


async def test_a_pool_shrinks_to_its_least_size(
    colour: Colour, monkeypatch: pytest.MonkeyPatch, witness: Any
) -> None:
    db = colour.database(pool_max_size=3, pool_min_size=1)
    async with entered(db.acquire()), entered(db.acquire()), entered(db.acquire()):
        pass
    for module in (async_pool, sync_pool):
        monkeypatch.setattr(module, "MAX_IDLE", -1.0)
    await settled(db.run(ask, "SELECT 1"))
    left = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'soniq' AND datname = current_database()"
    )
    await until(lambda: witness(left) == [(1,)])


async def test_an_old_connection_is_replaced(
    colour: Colour, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (async_pool, sync_pool):
        monkeypatch.setattr(module, "MAX_LIFETIME", 0.0)
    db = colour.database()
    assert await pid_of(db) != await pid_of(db)


def test_each_event_loop_has_its_own_pool(scratch: str) -> None:
    db = aio.Database(Settings(), url=lambda: scratch)

    async def use(close: bool) -> int:
        found = await pid_of(db)
        assert await pid_of(db) == found
        if close:
            await db.close()
        return found

    pids = [
        asyncio.run(use(False)),
        anyio.run(use, False, backend="trio"),
        asyncio.run(use(False)),
        anyio.run(use, True, backend="trio"),
    ]
    assert len(set(pids)) == 4
    assert [here.over() for here in db._pools] == []


def test_two_loops_at_once_do_not_disturb_each_other(scratch: str) -> None:
    db = aio.Database(Settings(), url=lambda: scratch)
    barrier = threading.Barrier(2, timeout=20)
    seen: list[set[int]] = []

    def loop(backend: str) -> None:
        async def use() -> set[int]:
            pids = set()
            for _ in range(10):
                await anyio.to_thread.run_sync(barrier.wait)
                pids.add(await pid_of(db))
            await db.close()
            return pids

        seen.append(anyio.run(use, backend=backend))

    threads = [threading.Thread(target=loop, args=(name,)) for name in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(pids) for pids in seen] == [1, 1]
    assert not seen[0] & seen[1]


def test_threads_share_the_sync_pool(scratch: str) -> None:
    db = sync.Database(Settings().with_(pool_max_size=3), url=lambda: scratch)
    errors: list[BaseException] = []

    def use(n: int) -> None:
        try:
            for _ in range(20):
                assert db.run(ask, "SELECT CAST(%(n)s AS int)", {"n": n}) == [(n,)]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.close()
    assert errors == []


async def test_a_pipeline_left_open_is_not_handed_on(colour: Colour) -> None:
    db = colour.database(pool_max_size=1)
    async with entered(db.acquire()) as conn:
        conn.pgconn.enter_pipeline_mode()
    async with entered(db.acquire()) as conn:
        assert conn.pgconn.pipeline_status == pq.PipelineStatus.OFF
        assert await settled(conn.fetchval("SELECT 1")) == 1
