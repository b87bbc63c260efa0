"""A database of its own for each test of a statement, and connections to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from .desk import Desk


@pytest.fixture(scope="module")
def kept_database(
    make_database: Callable[..., str], keeper: psycopg.Connection[Any], migrated_template: str
) -> Iterator[str]:
    """One database for a module: emptying it takes a tenth of making one."""
    url = make_database(migrated_template)
    yield url
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    keeper.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def emptied_database(kept_database: str) -> str:
    """The module's database, without jobs, keys and limits."""
    with psycopg.connect(kept_database, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE soniq.jobs, soniq.keys, soniq.history, soniq.dead_letters, soniq.workers, "
            "soniq.watch, soniq.gates, soniq.queues"
        )
    return kept_database


@pytest.fixture
def desks() -> Iterator[Callable[[str, str], Desk]]:
    """Open desks that are closed at the end of the test."""
    with ExitStack() as stack:

        def opened(url: str, schema: str = "soniq") -> Desk:
            desk = Desk(url, schema)
            stack.callback(desk.connection.close)
            return desk

        yield opened


@pytest.fixture
def desk(database_url: str, desks: Callable[..., Desk]) -> Desk:
    """A desk at a database of its own, its schema set up."""
    return desks(database_url)


@pytest.fixture
def other(desk: Desk) -> Iterator[Desk]:
    """A second connection to the same database."""
    second = desk.another()
    yield second
    second.connection.close()


@pytest.fixture
def ear(desk: Desk) -> Iterator[Callable[[], list[str]]]:
    """Listen to the schema's channel; calling it gives what was notified up to now."""
    listener = psycopg.connect(desk.url, autocommit=True)
    listener.execute('LISTEN "soniq"')

    def heard() -> list[str]:
        # A mark of our own comes last, so nothing has to be waited for by time.
        mark = uuid.uuid4().hex
        desk.sql("SELECT pg_notify({channel}, %s)", mark)
        said: list[str] = []
        for notice in listener.notifies(timeout=10):
            if notice.payload == mark:
                return said
            said.append(notice.payload)
        raise AssertionError("the mark never came")

    yield heard
    listener.close()
