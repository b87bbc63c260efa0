"""Jobs that live and die with the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from soniq import (
    ConnectionLost,
    InvalidArguments,
    InvalidOption,
    JobNotFound,
    TransactionAborted,
    UnknownConnection,
    UsageError,
)

from .colour import entered, settled

pytestmark = pytest.mark.anyio
in_any_schema = pytest.mark.parametrize("schema", ["soniq", "oTher_2"], indirect=True)

Stored = Callable[[], int]


class Oops(Exception):
    pass


@pytest.fixture
def task(eq: Any) -> Any:
    def work(n: int) -> None: ...

    return eq.job("work")(work)


async def enqueue_each_way(eq: Any, task: Any, connection: Any) -> int:
    await settled(eq.enqueue(task, 1, connection=connection))
    await settled(eq.schedule(task, 60, 2, connection=connection))
    await settled(eq.enqueue_many(task, [(3,), (4,)], connection=connection))
    await settled(eq.within(connection).enqueue(task, 5))
    await settled(eq.within(connection).enqueue_many(task, [(n,) for n in range(600)]))
    return 605


@in_any_schema
async def test_a_rolled_back_transaction_leaves_no_job(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect()
    with pytest.raises(Oops):  # noqa: PT012
        async with entered(connection.transaction()):
            await enqueue_each_way(eq, task, connection)
            raise Oops
    assert stored() == 0


@in_any_schema
async def test_a_commit_leaves_exactly_the_jobs_and_not_before(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect()
    async with entered(connection.transaction()):
        number = await enqueue_each_way(eq, task, connection)
        assert stored() == 0
    assert stored() == number


async def test_without_autocommit_nothing_is_committed_behind_the_callers_back(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    """As the first statement of an implicit transaction, COMMIT would end it for psycopg."""
    connection = await connect()
    number = await enqueue_each_way(eq, task, connection)
    assert stored() == 0
    await settled(connection.rollback())
    assert stored() == 0
    assert await enqueue_each_way(eq, task, connection) == number
    await settled(connection.commit())
    assert stored() == number


async def test_in_autocommit_a_job_is_there_at_once(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect(autocommit=True)
    await settled(eq.enqueue(task, 1, connection=connection))
    assert stored() == 1


async def test_a_savepoint_takes_its_jobs_along(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect()
    async with entered(connection.transaction()):
        kept = await settled(eq.enqueue(task, 1, connection=connection))
        with pytest.raises(Oops):  # noqa: PT012
            async with entered(connection.transaction()):
                await settled(eq.enqueue(task, 2, connection=connection))
                raise Oops
    assert stored() == 1
    assert (await settled(eq.get_job(kept))).args == {"n": 1}


async def test_a_lost_connection_leaves_no_job(
    eq: Any, task: Any, connect: Any, stored: Stored, witness: Callable[..., Any]
) -> None:
    connection = await connect()
    await settled(eq.enqueue(task, 1, connection=connection))
    witness("SELECT pg_terminate_backend(%s, 5000)", connection.info.backend_pid)
    with pytest.raises(ConnectionLost):
        await settled(eq.enqueue(task, 2, connection=connection))
    assert stored() == 0


async def test_a_cursor_stands_for_its_connection(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect()
    cursor = connection.cursor()
    await settled(eq.enqueue(task, 1, connection=cursor))
    assert stored() == 0
    await settled(connection.commit())
    assert stored() == 1


async def test_the_callers_own_row_factory_and_settings_stay(
    eq: Any, task: Any, connect: Any
) -> None:
    connection = await connect(row_factory=psycopg.rows.dict_row)
    await settled(connection.execute("SET LOCAL statement_timeout = '7s'"))
    job_id = await settled(eq.enqueue(task, 1, connection=connection))
    assert (await settled(eq.within(connection).get_job(job_id))).id == job_id
    cursor = await settled(connection.execute("SHOW statement_timeout"))
    assert await settled(cursor.fetchone()) == {"statement_timeout": "7s"}
    assert connection.row_factory is psycopg.rows.dict_row


@in_any_schema
async def test_every_operation_of_a_bound_client_is_undone_by_the_rollback(
    eq: Any, task: Any, connect: Any, witness: Callable[..., Any], schema: str
) -> None:
    before = [await settled(eq.enqueue(task, n, delay=60)) for n in range(4)]
    everything = f'SELECT (SELECT json_agg(j ORDER BY id) FROM "{schema}".jobs j)::text'
    was = witness(everything)
    connection = await connect()
    bound = eq.within(connection)
    assert await settled(bound.cancel_job(before[0]))
    assert (await settled(bound.get_job(before[0]))).status == "cancelled"
    assert (await settled(eq.get_job(before[0]))).status == "scheduled"
    assert await settled(bound.delete_job(before[1]))
    with pytest.raises(JobNotFound):
        await settled(bound.get_job(before[1]))
    assert await settled(bound.retry_job(before[2])) == before[2]
    assert await settled(bound.reschedule_job(before[3], delay=5))
    new = await settled(bound.enqueue(task, 9))
    assert new in [job.id for job in await settled(bound.list_jobs())]
    assert new not in [job.id for job in await settled(eq.list_jobs())]
    (stats,) = await settled(bound.get_queue_stats())
    assert stats.queued == 2
    assert await settled(bound.dead_letter.list()) == []
    await settled(bound.ensure_initialized())
    await settled(connection.rollback())
    assert witness(everything) == was


async def test_a_task_reaches_the_transaction_through_its_options(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect()
    await settled(eq.within(connection).enqueue(task.options(queue="q"), 1))
    assert stored() == 0


async def test_what_belongs_to_the_application_is_refused_on_a_bound_client(
    eq: Any, connect: Any
) -> None:
    bound = eq.within(await connect())
    for name in ("close", "setup", "run_worker"):
        with pytest.raises(UsageError, match="bound to a connection"):
            await settled(getattr(bound, name)())
    with pytest.raises(UsageError, match="bound to a connection"):
        await settled(bound.wait("01a20eb4-83fe-7469-805e-1b35804e2095"))
    with pytest.raises(UsageError, match="bound to a connection"):
        bound.backend  # noqa: B018
    with pytest.raises(UsageError, match="bound to a connection"):
        async with entered(bound.start_worker()):
            pass
    with pytest.raises(InvalidOption, match="needs a connection"):
        eq.within(None)


async def test_leaving_a_bound_client_closes_nothing(eq: Any, task: Any, connect: Any) -> None:
    connection = await connect()
    async with entered(eq.within(connection)) as bound:
        await settled(bound.enqueue(task, 1))
    await settled(connection.rollback())
    assert await settled(eq.list_jobs()) == []


async def test_an_object_that_is_no_connection_is_refused(
    eq: Any, task: Any, stored: Stored
) -> None:
    with pytest.raises(UnknownConnection, match=r"builtins\.dict"):
        await settled(eq.enqueue(task, 1, connection={"a": 1}))
    assert stored() == 0


@pytest.mark.parametrize("colour", ["asyncio", "trio"], indirect=True)
async def test_a_connection_of_the_other_colour_is_refused_with_the_way_out(
    eq: Any, task: Any, database_url: str, stored: Stored
) -> None:
    with psycopg.connect(database_url) as connection:
        with pytest.raises(UnknownConnection, match=r"eq\.sync"):
            await settled(eq.enqueue(task, 1, connection=connection))
    assert stored() == 0


async def test_a_failed_transaction_and_a_closed_connection_are_told_apart(
    eq: Any, task: Any, connect: Any
) -> None:
    connection = await connect()
    with pytest.raises(psycopg.errors.DivisionByZero):
        await settled(connection.execute("SELECT 1 / 0"))
    with pytest.raises(TransactionAborted, match="Roll it back"):
        await settled(eq.enqueue(task, 1, connection=connection))
    await settled(connection.rollback())
    await settled(eq.enqueue(task, 1, connection=connection))
    await settled(connection.close())
    with pytest.raises(ConnectionLost, match="closed"):
        await settled(eq.enqueue(task, 1, connection=connection))


async def test_bad_input_does_not_harm_the_callers_transaction(
    eq: Any, task: Any, connect: Any, stored: Stored
) -> None:
    connection = await connect()
    await settled(eq.enqueue(task, 1, connection=connection))
    with pytest.raises(InvalidArguments):
        await settled(eq.enqueue(task, object(), connection=connection))
    with pytest.raises(JobNotFound):
        await settled(eq.within(connection).get_job("01a20eb4-83fe-7469-805e-1b35804e2095"))
    await settled(connection.commit())
    assert stored() == 1


async def test_the_pools_own_connection_is_a_callers_too(
    eq: Any, task: Any, stored: Stored
) -> None:
    async with entered(eq.backend.acquire()) as connection:
        with pytest.raises(Oops):  # noqa: PT012
            async with entered(connection.transaction()):
                await settled(eq.enqueue(task, 1, connection=connection))
                raise Oops
        assert stored() == 0
        async with entered(connection.transaction()):
            one = await settled(connection.fetchval("SELECT $1::int", 1))
            await settled(eq.enqueue(task, one, connection=connection))
        assert await settled(connection.fetchrow("SELECT %s", "x")) == ("x",)
        assert await settled(connection.fetch("SELECT 1 UNION SELECT 2")) == [(1,), (2,)]
    assert stored() == 1


@pytest.mark.parametrize("colour", ["sync"], indirect=True)
async def test_an_async_connection_is_refused_by_the_sync_client(
    eq: Any, task: Any, database_url: str, stored: Stored
) -> None:
    connection = await psycopg.AsyncConnection.connect(database_url)
    try:
        with pytest.raises(UnknownConnection, match="async client"):
            eq.enqueue(task, 1, connection=connection)
    finally:
        await connection.close()
    assert stored() == 0
