"""A database of its own for each test of a statement, and connections to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from .desk import Desk


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
