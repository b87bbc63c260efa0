"""A client of each colour on a fresh database, and a witness who looks from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest

from soniq import Soniq, SoniqSync
from soniq.db.connection import AnyioConnection

from .colour import settled


@pytest.fixture(params=["sync", "asyncio", "trio"])
def colour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(colour: str) -> str:
    return "asyncio" if colour == "sync" else colour


@pytest.fixture
async def make_client(colour: str, anyio_backend: str) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        made.append((SoniqSync if colour == "sync" else Soniq)(*args, **options))
        return made[-1]

    yield make
    for client in made:
        await settled(client.close())


@pytest.fixture(params=["soniq"])
def schema(request: pytest.FixtureRequest) -> str:
    """The schema a test's client uses; a module may ask for others too."""
    return str(request.param)


@pytest.fixture
async def eq(make_client: Callable[..., Any], database_url: str, schema: str) -> Any:
    client = make_client(database_url, schema=schema)
    if schema != "soniq":
        await settled(client.setup())
    return client


@pytest.fixture
def witness(database_url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Ask the database from outside; answers rows."""
    with psycopg.connect(database_url, autocommit=True) as connection:

        def look(sql: str, *params: Any) -> list[tuple[Any, ...]]:
            cursor = connection.execute(sql.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

        yield look


@pytest.fixture
def stored(witness: Callable[..., Any], schema: str) -> Callable[[], int]:
    """Count the jobs that others can see."""
    return lambda: int(witness(f'SELECT count(*) FROM "{schema}".jobs')[0][0])


@pytest.fixture
async def connect(
    colour: str, anyio_backend: str, database_url: str
) -> AsyncIterator[Callable[..., Any]]:
    """Connect as a caller would: with psycopg's own class, but on trio, where none is."""
    made: list[Any] = []

    async def connect(**options: Any) -> Any:
        kinds: dict[str, Any] = {"sync": psycopg.Connection, "asyncio": psycopg.AsyncConnection}
        kind = kinds.get(colour, AnyioConnection)
        made.append(await settled(kind.connect(database_url, **options)))
        return made[-1]

    yield connect
    for connection in made:
        await settled(connection.close())
