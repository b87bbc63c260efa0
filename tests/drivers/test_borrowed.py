# ruff: noqa: PT012  what is raised in the end is raised by the block itself
"""The caller's connection is sacred: what is done on it lives and dies with their transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.adapt import Dumper, Loader
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from soniq.errors import (
    ConnectionLost,
    DatabaseError,
    TransactionAborted,
    UnknownConnection,
)
from soniq.steps import Atomic, Batch, CopyIn, Query, Script

from .conftest import Colour, ask, entered, settled

pytestmark = pytest.mark.anyio

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS


@pytest.fixture
def anyio_backend(colour_name: str) -> str:
    return "trio" if colour_name == "trio" else "asyncio"


@pytest.fixture
def rows(witness: Any) -> Callable[[], list[int]]:
    """The committed rows, seen from outside."""
    witness("CREATE TABLE t (n int PRIMARY KEY)")
    return lambda: [row[0] for row in witness("SELECT n FROM t ORDER BY n")]


@pytest.fixture
def db(colour: Colour, rows: Any) -> Any:
    return colour.database()


INSERT = "INSERT INTO t (n) VALUES (CAST(%(n)s AS int)) RETURNING n"


def insert(n: object) -> Any:
    return (yield from Query(INSERT, {"n": n}, lambda row: int(row[0])))


def query_of(n: object) -> Query[int]:
    return Query(INSERT, {"n": n}, lambda row: int(row[0]))


def atomic(n: object) -> Any:
    return (yield from Atomic(insert(n)))


def batch(n: object) -> Any:
    return (yield from Batch([query_of(n)]))


def copied(n: object) -> Any:
    return (yield from CopyIn("COPY t (n) FROM STDIN", [b"%d\n" % n]))  # type: ignore[str-bytes-safe,operator]


def scripted(n: object) -> Any:
    yield from Script(f"INSERT INTO t VALUES ({n})")


OPERATIONS = [insert, atomic, batch, copied, scripted]


@pytest.fixture(params=OPERATIONS, ids=lambda operation: operation.__name__)
def write(request: pytest.FixtureRequest) -> Any:
    """Every way to write a row."""
    return request.param


@pytest.fixture(params=[True, False], ids=["first", "later"])
def first(request: pytest.FixtureRequest) -> bool:
    """Whether ours is the first statement of the caller's transaction."""
    return bool(request.param)


async def begin(conn: Any, first: bool) -> None:
    if not first:
        await settled(conn.execute("SELECT 1"))


async def test_a_commit_keeps_the_row(
    colour: Colour, db: Any, rows: Any, write: Any, first: bool
) -> None:
    conn = await colour.connect()
    await begin(conn, first)
    await settled(db.run_on(conn, write, 1))
    assert conn.info.transaction_status == INTRANS
    assert rows() == []
    await settled(conn.commit())
    assert rows() == [1]


async def test_a_rollback_leaves_no_row(
    colour: Colour, db: Any, rows: Any, write: Any, first: bool
) -> None:
    """psycopg's transaction() on an idle connection would have committed the first statement."""
    conn = await colour.connect()
    await begin(conn, first)
    await settled(db.run_on(conn, write, 1))
    await settled(conn.rollback())
    assert rows() == []


@pytest.mark.parametrize("autocommit", [True, False])
async def test_an_exception_in_the_callers_block_leaves_no_row(
    colour: Colour, db: Any, rows: Any, write: Any, first: bool, autocommit: bool
) -> None:
    conn = await colour.connect(autocommit=autocommit)
    with pytest.raises(LookupError):
        async with entered(conn.transaction()):
            await begin(conn, first)
            await settled(db.run_on(conn, write, 1))
            raise LookupError
    assert rows() == []
    assert not conn.closed


@pytest.mark.parametrize("autocommit", [True, False])
async def test_the_callers_block_keeps_the_row(
    colour: Colour, db: Any, rows: Any, write: Any, first: bool, autocommit: bool
) -> None:
    conn = await colour.connect(autocommit=autocommit)
    async with entered(conn.transaction()):
        await begin(conn, first)
        await settled(db.run_on(conn, write, 1))
        assert rows() == []
    assert rows() == [1]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_savepoint_takes_only_its_own_row_with_it(
    colour: Colour, db: Any, rows: Any, write: Any, autocommit: bool
) -> None:
    conn = await colour.connect(autocommit=autocommit)
    async with entered(conn.transaction()):
        await settled(db.run_on(conn, write, 1))
        with pytest.raises(LookupError):
            async with entered(conn.transaction()):
                await settled(db.run_on(conn, write, 2))
                raise LookupError
        await settled(db.run_on(conn, write, 3))
    assert rows() == [1, 3]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_connection_lost_before_the_commit_leaves_no_row(
    colour: Colour, db: Any, rows: Any, write: Any, autocommit: bool, terminate: Any
) -> None:
    conn = await colour.connect(autocommit=autocommit)
    with pytest.raises(psycopg.OperationalError):
        async with entered(conn.transaction()):
            await settled(db.run_on(conn, write, 1))
            assert terminate() >= 1
            await settled(conn.execute("SELECT 1"))
    assert rows() == []
    with pytest.raises(ConnectionLost, match="closed"):
        await settled(db.run_on(conn, write, 1))


async def test_a_connection_that_breaks_under_us_is_said_to_be_lost(
    colour: Colour, db: Any, terminate: Any
) -> None:
    conn = await colour.connect()
    terminate()
    with pytest.raises(ConnectionLost):
        await settled(db.run_on(conn, insert, 1))


async def test_in_autocommit_each_operation_commits_itself(
    colour: Colour, db: Any, rows: Any, write: Any
) -> None:
    conn = await colour.connect(autocommit=True)
    await settled(db.run_on(conn, write, 1))
    assert conn.info.transaction_status == IDLE
    assert rows() == [1]


@pytest.mark.parametrize("kind", [Atomic, Batch])
async def test_in_autocommit_what_must_be_whole_is_in_a_transaction(
    colour: Colour, db: Any, rows: Any, kind: Any
) -> None:
    def both() -> Any:
        yield from insert(1)
        yield from insert(1)

    def operation() -> Any:
        yield from Atomic(both()) if kind is Atomic else Batch([query_of(1), query_of(1)])

    conn = await colour.connect(autocommit=True)
    with pytest.raises(DatabaseError):
        await settled(db.run_on(conn, operation))
    assert rows() == []
    assert conn.info.transaction_status == IDLE


async def test_a_failed_transaction_is_refused_before_anything_is_sent(
    colour: Colour, db: Any, rows: Any
) -> None:
    conn = await colour.connect()
    with pytest.raises(psycopg.Error):
        await settled(conn.execute("SELECT nonsense"))
    with pytest.raises(TransactionAborted, match="Roll it back") as caught:
        await settled(db.run_on(conn, insert, 1))
    assert caught.value.sqlstate == "25P02"


async def test_an_error_of_ours_leaves_the_rollback_to_the_caller(
    colour: Colour, db: Any, rows: Any
) -> None:
    conn = await colour.connect()
    await settled(db.run_on(conn, insert, 1))
    with pytest.raises(DatabaseError, match="duplicate"):
        await settled(db.run_on(conn, insert, 1))
    assert conn.info.transaction_status == pq.TransactionStatus.INERROR
    await settled(conn.rollback())
    await settled(db.run_on(conn, insert, 2))
    await settled(conn.commit())
    assert rows() == [2]


async def test_a_cursor_stands_for_its_connection(colour: Colour, db: Any, rows: Any) -> None:
    conn = await colour.connect()
    async with entered(conn.cursor()) as cursor:
        await settled(cursor.execute("SELECT 1 UNION SELECT 2 ORDER BY 1"))
        await settled(db.run_on(cursor, insert, 1))
        assert await settled(cursor.fetchall()) == [(1,), (2,)]
    await settled(conn.rollback())
    assert rows() == []


class Shouting(Dumper):
    def dump(self, obj: Any) -> bytes:
        return str(obj).upper().encode()


class Whispering(Loader):
    def load(self, data: Any) -> str:
        return "whisper"


class NoCursor(psycopg.Cursor[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the caller's cursor class was used")


class NoAsyncCursor(psycopg.AsyncCursor[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("the caller's cursor class was used")


async def test_the_callers_factories_and_adapters_are_neither_used_nor_touched(
    colour: Colour, db: Any, rows: Any
) -> None:
    conn = await colour.connect(row_factory=dict_row, prepare_threshold=3)
    factory = NoAsyncCursor if colour.is_async else NoCursor
    conn.cursor_factory = factory
    conn.adapters.register_dumper(str, Shouting)
    for name in ("text", "int4", "jsonb"):
        conn.adapters.register_loader(name, Whispering)
    sql = "SELECT CAST(%(word)s AS text), CAST(%(n)s AS int)"
    assert await settled(db.run_on(conn, ask, sql, {"word": "quiet", "n": 5})) == [("quiet", 5)]
    assert conn.row_factory is dict_row
    assert conn.cursor_factory is factory
    assert (conn.autocommit, conn.prepare_threshold) == (False, 3)
    conn.cursor_factory = psycopg.AsyncCursor if colour.is_async else psycopg.Cursor
    cursor = await settled(conn.execute("SELECT CAST(%s AS text) AS a", ["loud"]))
    assert await settled(cursor.fetchone()) == {"a": "whisper"}


async def test_adapters_registered_globally_are_not_used_either(colour: Colour, db: Any) -> None:
    conn = await colour.connect()
    before = psycopg.adapters.get_loader(23, pq.Format.TEXT)
    assert before is not None
    psycopg.adapters.register_loader("int4", Whispering)
    try:
        assert await settled(db.run_on(conn, ask, "SELECT 5")) == [(5,)]
        assert await settled(db.run(ask, "SELECT 5")) == [(5,)]
    finally:
        psycopg.adapters.register_loader("int4", before)


async def test_a_connection_of_the_pool_may_be_lent_back(
    colour: Colour, db: Any, rows: Any
) -> None:
    async with entered(db.acquire()) as conn:
        with pytest.raises(LookupError):
            async with entered(conn.transaction()):
                await settled(db.run_on(conn, insert, 1))
                raise LookupError
        async with entered(conn.transaction()):
            await settled(db.run_on(conn, insert, 2))
    assert rows() == [2]


async def test_the_callers_pipeline_is_ridden(colour: Colour, db: Any, rows: Any) -> None:
    conn = await colour.connect()
    async with entered(conn.pipeline()):
        await settled(conn.execute("SELECT 1"))
        assert await settled(db.run_on(conn, insert, 1)) == [1]
        assert await settled(db.run_on(conn, batch, 2)) == [[2]]
    await settled(conn.commit())
    assert rows() == [1, 2]


async def test_anything_else_is_refused_with_a_list_of_what_is_taken(db: Any) -> None:
    with pytest.raises(UnknownConnection, match=r"psycopg\.(Async)?Connection") as caught:
        await settled(db.run_on(5432, insert, 1))
    assert "builtins.int" in str(caught.value)


async def test_the_other_colour_is_refused_with_the_next_step(colour: Colour, db: Any) -> None:
    if colour.is_async:
        with (
            psycopg.connect(colour.url) as conn,
            pytest.raises(UnknownConnection, match="SoniqSync"),
        ):
            await db.run_on(conn, insert, 1)
        return
    conn = await psycopg.AsyncConnection.connect(colour.url)
    try:
        with pytest.raises(UnknownConnection, match="async client"):
            db.run_on(conn, insert, 1)
    finally:
        await conn.close()


async def test_a_pool_is_refused_with_the_next_step(colour: Colour, db: Any) -> None:
    kind: Any = AsyncConnectionPool if colour.name == "asyncio" else ConnectionPool
    pool = kind(colour.url, open=False)
    with pytest.raises(UnknownConnection, match=r"with pool\.connection\(\) as conn"):
        await settled(db.run_on(pool, insert, 1))
