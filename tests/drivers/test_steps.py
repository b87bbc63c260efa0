"""What each step does, on connections of the driver's own, sync and async."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import pytest

from soniq.errors import DatabaseError, SchemaMissing, SoniqError
from soniq.steps import Atomic, Batch, CopyIn, Query, Script, Step

from .conftest import Colour, ask, settled

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(colour_name: str) -> str:
    return "trio" if colour_name == "trio" else "asyncio"


@pytest.fixture
async def db(colour: Colour) -> Any:
    database = colour.database()
    await settled(database.run(script, "CREATE TABLE t (n int PRIMARY KEY)"))
    return database


def script(text: str) -> Any:
    yield from Script(text)


def insert(n: int) -> Query[int]:
    sql = "INSERT INTO t (n) VALUES (CAST(%(n)s AS int)) RETURNING n"
    return Query(sql, {"n": n}, lambda row: int(row[0]))


def insert_all(*numbers: int) -> Any:
    answers = []
    for n in numbers:
        answers.append((yield from insert(n)))
    return answers


async def test_a_query_answers_its_rows_decoded(db: Any) -> None:
    sql = "SELECT CAST(%(n)s AS int), {channel} FROM generate_series(1, 3)"
    rows = await settled(db.run(ask, sql, {"n": 7}))
    assert rows == [(7, "soniq")] * 3


async def test_the_schema_and_the_channel_are_filled_in(colour: Colour) -> None:
    database = colour.database(schema="Odd_Name")
    await settled(database.run(script, "CREATE SCHEMA {soniq}; CREATE TABLE {soniq}.t (n int)"))
    assert await settled(database.run(ask, "SELECT n FROM {soniq}.t")) == []
    assert await settled(database.run(ask, "SELECT {channel}")) == [("Odd_Name",)]


async def test_a_statement_without_rows_answers_none(db: Any) -> None:
    assert await settled(db.run(ask, "DELETE FROM t")) == []


async def test_a_percent_sign_is_doubled_with_and_without_parameters(db: Any) -> None:
    assert await settled(db.run(ask, "SELECT '50%%'")) == [("50%",)]
    assert await settled(db.run(ask, "SELECT '50%%', CAST(%(n)s AS int)", {"n": 1})) == [("50%", 1)]


async def test_a_binary_query_answers_the_same_values(db: Any) -> None:
    def operation() -> Any:
        return (yield from Query("SELECT CAST(3 AS bigint), true", {}, tuple, binary=True))

    assert await settled(db.run(operation)) == [(3, True)]


async def test_a_batch_answers_the_rows_of_each(db: Any) -> None:
    def operation() -> Any:
        queries = [insert(1), Query("DELETE FROM t WHERE n > 5"), insert(2)]
        return (yield from Batch(queries))

    assert await settled(db.run(operation)) == [[1], [], [2]]


async def test_a_batch_is_all_or_nothing(db: Any, witness: Any) -> None:
    def operation() -> Any:
        yield from Batch([insert(1), insert(2), insert(1), insert(3)])

    with pytest.raises(DatabaseError, match="duplicate key") as caught:
        await settled(db.run(operation))
    assert caught.value.sqlstate == "23505"
    assert witness("SELECT n FROM t") == []
    assert await settled(db.run(insert_all, 9)) == [[9]]


async def test_a_batch_may_repeat_one_statement_often_enough_to_prepare_it(db: Any) -> None:
    def operation() -> Any:
        return (yield from Batch([insert(n) for n in range(40)]))

    assert await settled(db.run(operation)) == [[n] for n in range(40)]


async def test_a_script_takes_a_percent_sign_and_several_statements(db: Any, witness: Any) -> None:
    await settled(db.run(script, "INSERT INTO t VALUES (10 % 7); INSERT INTO t VALUES (5)"))
    assert witness("SELECT n FROM t ORDER BY n") == [(3,), (5,)]


async def test_copy_streams_chunks_and_answers_the_number_of_rows(db: Any, witness: Any) -> None:
    def operation() -> Any:
        chunks = (b"".join(b"%d\n" % n for n in range(at, at + 1000)) for at in (0, 1000))
        return (yield from CopyIn("COPY t (n) FROM STDIN", chunks))

    assert await settled(db.run(operation)) == 2000
    assert witness("SELECT count(*), max(n) FROM t") == [(2000, 1999)]


async def test_a_copy_whose_source_fails_leaves_nothing(db: Any, witness: Any) -> None:
    def chunks() -> Any:
        yield b"1\n"
        raise LookupError("the source ran dry")

    def operation() -> Any:
        yield from CopyIn("COPY t (n) FROM STDIN", chunks())

    with pytest.raises(LookupError):
        await settled(db.run(operation))
    assert witness("SELECT n FROM t") == []
    assert await settled(db.run(insert_all, 1)) == [[1]]


async def test_atomic_commits_when_it_ends(db: Any, witness: Any) -> None:
    def operation() -> Any:
        return (yield from Atomic(insert_all(1, 2)))

    assert await settled(db.run(operation)) == [[1], [2]]
    assert witness("SELECT count(*) FROM t") == [(2,)]


@pytest.mark.parametrize("failing", [(2, 2), (2, "nonsense")])
async def test_atomic_undoes_everything_when_it_fails(db: Any, witness: Any, failing: Any) -> None:
    def inner() -> Any:
        yield from insert_all(1)
        yield from insert_all(*failing)

    def operation() -> Any:
        yield from Atomic(inner())

    with pytest.raises(DatabaseError):
        await settled(db.run(operation))
    assert witness("SELECT n FROM t") == []


async def test_an_atomic_within_another_is_part_of_it(db: Any, witness: Any) -> None:
    def inner() -> Any:
        yield from Atomic(insert_all(1))
        raise LookupError

    def operation() -> Any:
        yield from Atomic(inner())

    with pytest.raises(LookupError):
        await settled(db.run(operation))
    assert witness("SELECT n FROM t") == []


async def test_an_operation_may_catch_an_error_at_its_step_and_go_on(db: Any) -> None:
    def operation() -> Any:
        with contextlib.suppress(SchemaMissing):
            yield from Query("SELECT * FROM {soniq}.jobs")
        return (yield from ask("SELECT 1"))

    assert await settled(db.run(operation)) == [(1,)]


async def test_an_atomic_that_failed_may_be_caught_outside_it(db: Any, witness: Any) -> None:
    def operation() -> Any:
        try:
            yield from Atomic(insert_all(1, 1))
        except DatabaseError:
            return (yield from insert_all(2))

    assert await settled(db.run(operation)) == [[2]]
    assert witness("SELECT n FROM t") == [(2,)]


async def test_an_error_of_a_decoder_is_raised_at_the_step(db: Any) -> None:
    def operation() -> Any:
        try:
            yield from Query("SELECT 1", {}, lambda row: row[5])
        except IndexError:
            return "caught"

    assert await settled(db.run(operation)) == "caught"


async def test_a_decoder_that_raises_stop_iteration_does_not_end_the_operation(db: Any) -> None:
    def operation() -> Any:
        yield from Query("SELECT 1", {}, lambda row: next(iter(())))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await settled(db.run(operation))


async def test_the_operation_is_closed_when_it_fails(db: Any) -> None:
    closed = []

    def operation() -> Any:
        try:
            yield from Query("SELECT nonsense")
        finally:
            closed.append(True)

    with pytest.raises(SoniqError):
        await settled(db.run(operation))
    assert closed == [True]


async def test_a_step_no_driver_knows_is_refused_within_the_operation(db: Any) -> None:
    class Dance(Step[None]):
        pass

    def operation() -> Any:
        yield from Dance()

    with pytest.raises(TypeError, match="Dance"):
        await settled(db.run(operation))


async def test_the_traceback_shows_the_operation_and_none_of_the_driver(db: Any) -> None:
    def operation() -> Any:
        yield from Query("SELECT nonsense")

    with pytest.raises(SoniqError) as caught:
        await settled(db.run(operation))
    files = [entry.path.parts[-3:-1] for entry in caught.traceback]
    assert files.count(("soniq", "db")) == 1  # `run`, where it is raised
    assert caught.traceback[-1].name == "operation"


async def test_a_changed_table_does_not_poison_its_prepared_statements(
    db: Any, witness: Any
) -> None:
    """A prepared `SELECT *` fails for good after an ALTER: "cached plan must not change"."""
    for _ in range(20):
        await settled(db.run(ask, "SELECT * FROM t"))
    witness("ALTER TABLE t ADD COLUMN extra int")
    for _ in range(20):
        assert await settled(db.run(ask, "SELECT * FROM t")) == []


async def test_a_poisoned_statement_within_a_transaction_may_be_tried_again(
    db: Any, witness: Any
) -> None:
    from soniq.errors import TransientError

    def operation() -> Any:
        yield from Atomic(ask("SELECT * FROM t"))

    for _ in range(20):
        await settled(db.run(operation))
    witness("ALTER TABLE t ADD COLUMN extra int")
    with pytest.raises(TransientError):
        await settled(db.run(operation))
    await settled(db.run(operation))


async def test_a_batch_that_failed_while_it_was_prepared_succeeds_later(db: Any) -> None:
    """Endings that a server refused for a while were held for refused for good.

    psycopg prepares a statement at its sixth run; in a pipeline it does not learn that the server
    never came to that, because the statement before had failed. It ran what was not there.
    """

    def operation(n: int) -> Any:
        queries = [
            Query("SELECT 1 / CAST(%(n)s AS int)", {"n": n}, tuple),
            Query("SELECT CAST(%(m)s AS int) + 1", {"m": 41}, tuple),
        ]
        return (yield from Batch(queries))

    await settled(db.run(operation, 1))
    for _ in range(8):
        with pytest.raises(DatabaseError, match="division by zero"):
            await settled(db.run(operation, 0))
    assert await settled(db.run(operation, 1)) == [[(1,)], [(42,)]]


async def test_a_prepared_statement_that_somebody_took_away_is_made_again(db: Any) -> None:
    sql = "SELECT CAST(%(n)s AS int)"
    for _ in range(7):
        assert await settled(db.run(ask, sql, {"n": 1})) == [(1,)]
    assert await settled(db.run(ask, "SELECT count(*) FROM pg_prepared_statements")) == [(1,)]

    def deallocate() -> Any:  # under psycopg's eyes it would be noticed
        yield from Query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")

    await settled(db.run(deallocate))
    assert await settled(db.run(ask, sql, {"n": 2})) == [(2,)]


async def test_many_tasks_share_the_pool(colour: Colour) -> None:
    if not colour.is_async:
        pytest.skip("sync code has no tasks")
    database = colour.database(pool_max_size=4)

    async def one(n: int) -> None:
        for _ in range(20):
            assert await database.run(ask, "SELECT CAST(%(n)s AS int)", {"n": n}) == [(n,)]

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(one, n)
