"""One text for both colours: a fixture gives the sync driver, and the async one on either loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from soniq.db import aio, sync
from soniq.db.connection import AnyioConnection
from soniq.settings import Settings
from soniq.steps import Query


def drop(keeper: psycopg.Connection[Any], url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    keeper.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


async def settled(value: Any) -> Any:
    """Await what is awaitable: the same call on either colour."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Enter a context manager of either colour."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


def ask(sql: str, params: dict[str, object] | None = None) -> Any:
    """An operation of one statement that answers its rows as tuples."""
    return (yield from Query(sql, params or {}, tuple))


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact, ten seconds at most."""
    with anyio.fail_after(10):
        while not fact():
            await anyio.sleep(0.01)


class Colour:
    """A driver of one colour on one database, with everything it made closed at the end."""

    def __init__(self, name: str, url: str, stack: AsyncExitStack) -> None:
        self.name = name
        self.url = url
        self.is_async = name != "sync"
        self._stack = stack

    def database(self, **options: Any) -> Any:
        """A `Database`; settings and its own keywords may be given."""
        own = {key: options.pop(key) for key in ("pool", "connection_factory") if key in options}
        settings = Settings().with_(**options)
        made: Any = (aio if self.is_async else sync).Database(settings, url=lambda: self.url, **own)
        self._stack.push_async_callback(lambda: settled(made.close()))
        return made

    async def connect(self, *, autocommit: bool = False, **options: Any) -> Any:
        """A connection as a caller would have it: psycopg's own class, save on trio."""
        kind: Any = psycopg.Connection
        if self.is_async:
            kind = AnyioConnection if self.name == "trio" else psycopg.AsyncConnection
        made = await settled(kind.connect(self.url, autocommit=autocommit, **options))
        self._stack.push_async_callback(lambda: settled(made.close()))
        return made


@pytest.fixture(params=["sync", "asyncio", "trio"])
def colour_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def worn_database(
    make_database: Callable[..., str], keeper: psycopg.Connection[Any]
) -> Iterator[str]:
    url = make_database()
    yield url
    drop(keeper, url)


@pytest.fixture
def scratch(worn_database: str) -> Iterator[str]:
    """The URL of a database that was emptied: cheaper than a fresh one, and nothing here minds."""
    yield worn_database
    with psycopg.connect(worn_database, autocommit=True) as connection:
        connection.execute(KILL)
        connection.execute(EMPTY)


KILL = """
    SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend'"""
EMPTY = """DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT nspname FROM pg_namespace
            WHERE left(nspname, 3) <> 'pg_' AND nspname <> 'information_schema'
        LOOP EXECUTE format('DROP SCHEMA %I CASCADE', name); END LOOP;
        CREATE SCHEMA public;
    END $$"""


@pytest.fixture
async def colour(colour_name: str, anyio_backend: Any, scratch: str) -> AsyncIterator[Colour]:
    async with AsyncExitStack() as stack:
        yield Colour(colour_name, scratch, stack)


@pytest.fixture
def witness(scratch: str) -> Iterator[Any]:
    """Ask the database from outside; answers rows."""
    with psycopg.connect(scratch, autocommit=True) as connection:

        def look(sql: str, params: Any = None) -> list[tuple[Any, ...]]:
            cursor = connection.execute(sql.encode(), params)
            return cursor.fetchall() if cursor.description else []

        yield look


@pytest.fixture
def terminate(witness: Callable[..., Any]) -> Callable[[], int]:
    """Kill every other connection of the database, as a restart does; answer their number."""

    def kill() -> int:
        return int(witness(KILL)[0][0])

    return kill
