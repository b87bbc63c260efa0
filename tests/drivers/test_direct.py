"""The short way of hot statements: the same rows and errors as by a cursor of psycopg."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import rows

from soniq.db.connection import AnyioConnection
from soniq.db.sync_connection import Connection
from soniq.errors import ConnectionLost, DatabaseError, DatabaseTimeout
from soniq.steps import Query

from .conftest import Colour, entered, settled

pytestmark = pytest.mark.anyio

BY_CURSOR = "_execute_gen"
DIRECT = "_answers"
# psycopg prepares at the sixth use; from the seventh on there is something to send to.
USES = 6

NOTE = """INSERT INTO public.notes (a, b) VALUES (CAST(%(a)s AS text), CAST(%(b)s AS text))
    RETURNING *"""
NAP = "SELECT pg_sleep(CAST(CAST(%(seconds)s AS text) AS double precision))"


class Word(StrEnum):
    """A text that psycopg adapts in a way of its own."""

    NOUN = "by value"


def note(a: object, b: object = None) -> Any:
    return (yield from Query(NOTE, {"a": a, "b": b}))


def nap(seconds: str) -> Any:
    return (yield from Query(NAP, {"seconds": seconds}))


def watched(kind: Any) -> Any:
    """A class of connections that note which way each statement took: the name of its generator."""

    class Watched(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.ways: list[str] = []

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            self.ways.append(gen.__name__)
            return super().wait(gen, *args, **kwargs)

    return Watched


@pytest.fixture
def anyio_backend(colour_name: str) -> str:
    return "trio" if colour_name == "trio" else "asyncio"


Borrow = Callable[..., Awaitable[Any]]


@pytest.fixture
async def database(colour: Colour, witness: Callable[..., Any]) -> Any:
    witness("CREATE TABLE public.notes (a text UNIQUE DEFERRABLE INITIALLY IMMEDIATE, b text)")
    return colour.database()


@pytest.fixture
async def borrow(colour: Colour, database: Any) -> Any:
    """Make a caller's connection, on which `note` is prepared already; nothing is noted yet."""
    made: list[Any] = []

    async def connect(*, uses: int = USES, autocommit: bool = True, **options: Any) -> Any:
        kind: Any = psycopg.Connection
        if colour.is_async:
            kind = AnyioConnection if colour.name == "trio" else psycopg.AsyncConnection
        connection = await settled(
            watched(kind).connect(colour.url, autocommit=autocommit, **options)
        )
        made.append(connection)
        for use in range(uses):
            await settled(database.run_on(connection, note, f"use {use}"))
        connection.ways.clear()
        return connection

    yield connect
    for connection in made:
        await settled(connection.close())


def notes(witness: Callable[..., Any]) -> set[str]:
    found: list[tuple[str, str]] = witness("SELECT a, b FROM public.notes WHERE a NOT LIKE 'use %'")
    return {f"{a}/{b}" for a, b in found}


async def test_what_psycopg_has_prepared_goes_the_short_way(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow(uses=0, row_factory=rows.dict_row)
    for use in range(USES):
        assert await settled(database.run_on(connection, note, f"use {use}")) == [None]
    assert set(connection.ways) == {BY_CURSOR}
    connection.ways.clear()
    assert await settled(database.run_on(connection, note, "é", "%")) == [None]
    assert await settled(database.run_on(connection, note, "", None)) == [None]
    assert connection.ways == [DIRECT, DIRECT]
    assert notes(witness) == {"é/%", "/None"}
    assert connection.row_factory is rows.dict_row


async def test_our_own_connections_take_it_too(colour: Colour, database: Any, witness: Any) -> None:
    kind: Any = watched(AnyioConnection if colour.is_async else Connection)
    made: list[Any] = []

    async def connect_async() -> Any:
        made.append(await kind.connect(colour.url))
        return made[-1]

    def connect() -> Any:
        made.append(kind.connect(colour.url))
        return made[-1]

    own = colour.database(
        connection_factory=connect_async if colour.is_async else connect,
        pool_min_size=1,
        pool_max_size=1,
    )
    for use in range(USES):
        await settled(own.run(note, f"use {use}"))
    assert await settled(own.run(note, "last")) == [None]
    assert made[0].ways[-2:] == [BY_CURSOR, DIRECT]
    assert notes(witness) == {"last/None"}


@pytest.mark.parametrize("value", [Word.NOUN, 7, "a\0b", "\ud800"], ids=repr)
async def test_other_values_are_left_to_a_cursor(
    value: object, borrow: Borrow, database: Any
) -> None:
    connection, told = await borrow(), []
    fresh = await borrow(uses=0)
    for asked in (connection, fresh):
        try:
            told.append(await settled(database.run_on(asked, note, value, "b")))
            await settled(asked.execute("DELETE FROM public.notes WHERE b = 'b'"))
        except Exception as error:
            told.append(repr(error))
    assert DIRECT not in connection.ways
    assert told[0] == told[1]


async def test_it_is_part_of_the_callers_transaction(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow(autocommit=False)
    await settled(connection.commit())
    connection.ways.clear()
    await settled(database.run_on(connection, note, "psycopg begins"))
    await settled(database.run_on(connection, note, "within"))
    assert connection.ways == [BY_CURSOR, DIRECT]
    await settled(connection.rollback())
    assert notes(witness) == set()


async def test_a_pipeline_of_the_callers_keeps_its_order(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow()
    async with entered(connection.pipeline()):
        await settled(database.run_on(connection, note, "piped"))
    assert DIRECT not in connection.ways
    assert notes(witness) == {"piped/None"}


@pytest.mark.parametrize("forget", ["DISCARD ALL", "DEALLOCATE ALL"])
async def test_what_psycopg_forgot_is_prepared_again(
    forget: str, borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow()
    await settled(connection.execute(forget))
    for use in range(USES):
        await settled(database.run_on(connection, note, f"again {use}"))
    assert DIRECT not in connection.ways
    await settled(database.run_on(connection, note, "last"))
    assert connection.ways[-1] == DIRECT
    assert len(notes(witness)) == USES + 1


async def test_an_evicted_statement_goes_through_a_cursor(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow()
    connection.prepared_max = 1
    await settled(connection.execute("SELECT CAST(%s AS text)", ["x"], prepare=True))
    await settled(database.run_on(connection, note, "evicted"))
    assert connection.ways[-1] == BY_CURSOR
    assert notes(witness) == {"evicted/None"}


async def test_a_use_keeps_a_statement_from_being_evicted(borrow: Borrow, database: Any) -> None:
    connection = await borrow()
    connection.prepared_max = 2
    for number in range(2):
        other = f"SELECT {number}, CAST(%s AS text)"
        await settled(connection.execute(other, ["x"], prepare=True))
        await settled(database.run_on(connection, note, f"{number}"))
        assert connection.ways[-1] == DIRECT


async def test_nothing_is_sent_to_a_prepared_statement_where_psycopg_prepares_none(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow()
    connection.prepare_threshold = None
    await settled(database.run_on(connection, note, "pooled"))
    assert connection.ways == [BY_CURSOR]
    assert notes(witness) == {"pooled/None"}


async def test_texts_arrive_whole_whatever_the_client_encoding(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow()
    await settled(connection.execute("SET client_encoding TO latin1"))
    await settled(database.run_on(connection, note, "é"))
    assert connection.ways[-1] == BY_CURSOR
    assert notes(witness) == {"é/None"}


async def test_an_outdated_plan_is_left_out_once(
    borrow: Borrow, database: Any, witness: Any
) -> None:
    connection = await borrow()
    witness("ALTER TABLE public.notes ADD COLUMN c text")
    await settled(database.run_on(connection, note, "after"))
    assert connection.ways == [DIRECT, BY_CURSOR]
    assert notes(witness) == {"after/None"}


@pytest.mark.parametrize("deferred", [False, True])
async def test_an_error_is_the_same_by_both_ways(
    deferred: bool, borrow: Borrow, database: Any, witness: Any
) -> None:
    """A deferred constraint fails after the statement has answered its row."""
    if deferred:
        witness("ALTER TABLE public.notes DROP CONSTRAINT notes_a_key")
        witness("ALTER TABLE public.notes ADD CONSTRAINT notes_a_key UNIQUE (a) INITIALLY DEFERRED")
    witness("INSERT INTO public.notes VALUES ('taken')")
    connection, fresh = await borrow(), await borrow(uses=0)
    told: list[DatabaseError] = []
    for asked in (connection, fresh):
        with pytest.raises(DatabaseError) as caught:
            await settled(database.run_on(asked, note, "taken"))
        told.append(caught.value)
    assert [connection.ways, fresh.ways] == [[DIRECT], [BY_CURSOR]]
    assert type(told[0]) is type(told[1])
    assert str(told[0]) == str(told[1])
    assert told[0].sqlstate == told[1].sqlstate == "23505"
    await settled(database.run_on(connection, note, "next"))


async def test_a_lost_connection_is_told_as_such(
    borrow: Borrow, database: Any, terminate: Callable[[], int]
) -> None:
    connection = await borrow()
    terminate()
    with pytest.raises(ConnectionLost):
        await settled(database.run_on(connection, note, "lost"))
    assert connection.ways == [DIRECT]


async def test_a_limit_of_time_holds(colour: Colour, database: Any) -> None:
    kind: Any = watched(AnyioConnection if colour.is_async else Connection)
    connection = await settled(kind.connect(colour.url, autocommit=True))
    for _ in range(USES):
        await settled(database.run_on(connection, nap, "0"))
    connection.limit = 0.1
    with pytest.raises(DatabaseTimeout):
        await settled(database.run_on(connection, nap, "60"))
    assert connection.ways[-1] == DIRECT
    assert connection.closed


async def test_a_cancelled_one_leaves_the_connection_usable(
    colour: Colour, database: Any, witness: Any
) -> None:
    if not colour.is_async:
        pytest.skip("only async code is cancelled")
    connection = await watched(AnyioConnection).connect(colour.url, autocommit=True)
    async with connection:
        for _ in range(USES):
            await database.run_on(connection, nap, "0")
        with anyio.move_on_after(0.1) as scope:
            await database.run_on(connection, nap, "60")
        assert scope.cancelled_caught
        assert connection.ways[-1] == DIRECT
        assert not connection.closed
        assert await database.run_on(connection, nap, "0") == [None]
    assert not witness(
        "SELECT FROM pg_stat_activity WHERE query LIKE '%%pg_sleep%%' AND "
        "state = 'active' AND pid <> pg_backend_pid()"
    )
