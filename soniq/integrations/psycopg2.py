"""psycopg2: jobs in the transaction of a `connection`."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

import psycopg2
from psycopg2 import extensions

from ..db.faults import translate
from ..db.hosts import Host, place_of
from ..db.render import render
from ..db.texts import texts
from ..errors import ConnectionLost, SoniqError, TransactionAborted, UnknownConnection
from ..steps import Query

R = TypeVar("R")

# psycopg2's own readers of what our statements answer, whatever the caller registered.
_READERS: Final = (extensions.UNICODE, extensions.BOOLEAN, extensions.LONGINTEGER)


class Psycopg2Host(Host):
    """A `connection`.

    Raises:
        UnknownConnection: It is one of psycopg2's asynchronous ones.
        ConnectionLost: It is closed.
        TransactionAborted: Its transaction has failed before.
    """

    __slots__ = ("_connection", "_schema")

    def __init__(self, connection: Any, schema: str) -> None:
        if connection.async_:
            raise UnknownConnection(
                "psycopg2's asynchronous connections are not taken. Pass an ordinary one, or a "
                "psycopg.AsyncConnection to the async client (Soniq)."
            )
        if connection.closed:
            raise ConnectionLost(
                "The connection that was passed is closed. Pass an open one, or none to use "
                "Soniq's."
            )
        if connection.info.transaction_status == extensions.TRANSACTION_STATUS_INERROR:
            raise TransactionAborted(
                "The transaction of the connection that was passed has failed before. Roll it "
                "back, or to a savepoint, and try again.",
                sqlstate="25P02",
            )
        self._connection = connection
        self._schema = schema

    def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        with self._connection.cursor(cursor_factory=extensions.cursor) as cursor:
            for reader in _READERS:
                extensions.register_type(reader, cursor)
            cursor.execute(render(step.sql, self._schema), texts(step.params))
            rows = cursor.fetchall() if cursor.description is not None else ()
        return [step.decode(row) for row in rows]

    def atomic(self) -> AbstractContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""
        connection = self._connection
        idle = connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE
        if connection.autocommit and idle:
            begun: AbstractContextManager[object] = connection  # `with` begins and commits
            return begun
        return None

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of psycopg2 into ours; None for any other."""
        if isinstance(error, psycopg2.Error):
            return translate(error, self._schema, lost=bool(self._connection.closed), lent=True)
        return None

    def where(self) -> Hashable:
        """Name the database as libpq does."""
        return place_of(self._connection)


def of_cursor(cursor: Any, schema: str) -> Host:
    """Make the host of the connection that a cursor is of."""
    return Psycopg2Host(cursor.connection, schema)
