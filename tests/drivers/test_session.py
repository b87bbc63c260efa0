"""A connection for each loop of a worker: it comes back, and it does not hang."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from psycopg.conninfo import make_conninfo

from soniq.db.aio import Database
from soniq.db.session import Session
from soniq.errors import ConnectionLost, DatabaseTimeout, ReadOnlyServer, SchemaMissing
from soniq.settings import Settings
from soniq.steps import Query

from .conftest import ask, until

pytestmark = pytest.mark.anyio

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def session(anyio_backend: Any, scratch: str) -> AsyncIterator[Session]:
    made = Session(Database(Settings(), url=lambda: scratch))
    yield made
    await made.close()


async def pid_of(session: Session) -> int:
    return int((await session.run(ask, PID))[0][0])


async def test_it_keeps_one_connection_of_its_own(session: Session, witness: Any) -> None:
    assert await pid_of(session) == await pid_of(session)
    own = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'soniq'"
    assert witness(own + " AND datname = current_database()") == [(1,)]


async def test_it_connects_again_without_an_error_when_the_server_came_back(
    session: Session, terminate: Any
) -> None:
    before = await pid_of(session)
    assert terminate() == 1
    assert await pid_of(session) != before


async def test_it_connects_again_after_the_connection_broke_in_use(session: Session) -> None:
    with pytest.raises(ConnectionLost):
        await session.run(ask, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert await session.run(ask, "SELECT 1") == [(1,)]


async def test_it_leaves_a_server_that_was_demoted(session: Session, witness: Any) -> None:
    witness("CREATE TABLE t (n int)")
    await session.run(ask, "SET default_transaction_read_only = on")
    with pytest.raises(ReadOnlyServer):
        await session.run(ask, "INSERT INTO t VALUES (1)")
    await session.run(ask, "INSERT INTO t VALUES (1)")


async def test_a_statement_that_is_not_answered_is_given_up(session: Session, witness: Any) -> None:
    before = await pid_of(session)
    began = time.monotonic()
    with pytest.raises(DatabaseTimeout, match=r"0\.1 s.*statement_timeout"):
        await session.run(ask, "SELECT pg_sleep(60)", timeout=0.1)
    assert time.monotonic() - began < 5
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE 'SELECT pg_sleep(60)%' AND state = 'active'"
    )
    await until(lambda: witness(sleeping) == [(0,)])
    assert await pid_of(session) != before


OFF = """
    SELECT name FROM pg_settings WHERE setting = 'off'
    AND name IN ('enable_seqscan', 'enable_bitmapscan', 'jit') ORDER BY name"""
ALL_OFF = [("enable_bitmapscan",), ("enable_seqscan",), ("jit",)]


async def test_its_statements_are_kept_to_their_indexes_and_nobody_elses(session: Session) -> None:
    assert await session.run(ask, OFF) == ALL_OFF
    database = session._database
    assert ("enable_seqscan",) not in await database.run(ask, OFF)
    await database.close()


async def test_behind_a_pooler_the_settings_last_as_long_as_a_statement(scratch: str) -> None:
    session = Session(Database(Settings().with_(pgbouncer=True), url=lambda: scratch))
    assert await session.run(ask, OFF) == ALL_OFF
    assert session._connection is not None
    cursor = await session._connection.execute(OFF.encode())
    assert ("enable_seqscan",) not in await cursor.fetchall()
    await session.close()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_it_reads_what_is_committed_whatever_the_default_is(
    scratch: str, witness: Any, level: str, pooled: bool
) -> None:
    """A worker with a limited task claimed nothing where its role or database had another one."""
    spoken = level.replace(" ", "\\ ")
    url = make_conninfo(scratch, options=f"-c default_transaction_isolation={spoken}")
    session = Session(Database(Settings().with_(pgbouncer=pooled), url=lambda: url))
    said = "SELECT current_setting('transaction_isolation')"
    for _ in range(2):
        assert await session.run(ask, said) == [("read committed",)]
    assert session._connection is not None
    cursor = await session._connection.execute(said)
    assert await cursor.fetchone() == (level if pooled else "read committed",)  # nobody else's
    await session.close()


async def test_a_plan_made_for_an_empty_table_goes_once_statements_are_slow(
    session: Session, witness: Any
) -> None:
    witness("CREATE TABLE t (n int PRIMARY KEY, other int)")
    witness("CREATE INDEX ON t (other)")
    witness("VACUUM ANALYZE t")
    joined = "SELECT other FROM unnest(ARRAY[1, 2]) AS g(n) JOIN t USING (n) WHERE other >= 0"
    for _ in range(10):
        await session.run(ask, joined)
    ((name,),) = await session.run(
        ask, "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT other%%'"
    )

    async def planned() -> str:
        return str(await session.run(ask, f"EXPLAIN (COSTS OFF) EXECUTE {name}"))

    by_key = "Index Cond: (n = g.n)"
    assert by_key not in await planned()
    witness("INSERT INTO t SELECT n, n FROM generate_series(1, 50000) AS n")
    with anyio.fail_after(10):
        while by_key not in await planned():
            await session.run(ask, "SELECT pg_sleep(0.05)")


async def test_the_settings_give_the_limit(scratch: str) -> None:
    session = Session(Database(Settings().with_(statement_timeout=1), url=lambda: scratch))
    with pytest.raises(DatabaseTimeout):
        await session.run(ask, "SELECT pg_sleep(60)")
    await session.close()


async def test_a_lock_is_not_waited_for_for_ever(session: Session, witness: Any) -> None:
    witness("CREATE TABLE t (n int)")
    witness("BEGIN")
    witness("LOCK TABLE t")
    await pid_of(session)  # connected: that too is bounded by the limit
    try:
        with pytest.raises(DatabaseTimeout):
            await session.run(ask, "SELECT * FROM t", timeout=0.1)
    finally:
        witness("ROLLBACK")
    assert await session.run(ask, "SELECT * FROM t") == []


async def test_an_error_of_the_operation_keeps_the_connection(session: Session) -> None:
    before = await pid_of(session)
    with pytest.raises(SchemaMissing):
        await session.run(ask, "SELECT * FROM {soniq}.jobs")
    assert await pid_of(session) == before


async def test_a_transaction_left_open_is_not_carried_over(session: Session) -> None:
    def operation() -> Any:
        yield from Query("BEGIN")

    before = await pid_of(session)
    await session.run(operation)
    assert await pid_of(session) != before


async def test_two_tasks_take_turns(session: Session) -> None:
    found = []

    async def one(n: int) -> None:
        found.append(await session.run(ask, "SELECT CAST(%(n)s AS int)", {"n": n}))

    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(one, n)
    assert sorted(found) == [[(n,)] for n in range(10)]


async def test_a_cancelled_operation_keeps_the_connection(session: Session) -> None:
    before = await pid_of(session)
    with anyio.move_on_after(0.05):
        await session.run(ask, "SELECT pg_sleep(60)")
    assert await pid_of(session) == before


async def test_no_server_is_an_error_the_loop_can_wait_on(anyio_backend: Any) -> None:
    session = Session(Database(Settings(), url=lambda: "postgresql://127.0.0.1:1/x"))
    with pytest.raises(ConnectionLost):
        await session.run(ask, "SELECT 1")


async def test_a_server_that_never_answers_is_given_up_in_time(anyio_backend: Any) -> None:
    async def silent(stream: Any) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        session = Session(Database(Settings(), url=lambda: f"postgresql://127.0.0.1:{port}/x"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, silent)
            with pytest.raises(ConnectionLost, match=r"0\.2 s"):
                await session.run(ask, "SELECT 1", timeout=0.2)
            tasks.cancel_scope.cancel()
