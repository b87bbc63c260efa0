"""asyncpg: jobs in the transaction of a `Connection`, of a pool's as well."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import asyncpg

from ..db.faults import translate
from ..db.hosts import AsyncHost
from ..db.render import with_dollars
from ..db.texts import texts
from ..errors import ConnectionLost, DatabaseTimeout, SoniqError
from ..steps import Query

R = TypeVar("R")

# All that it raises; the second has no SQLSTATE, as for a closed connection.
_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class AsyncpgHost(AsyncHost):
    """A `Connection`, or the proxy of one that a pool lends.

    Raises:
        ConnectionLost: It is closed, or was given back to its pool.
    """

    __slots__ = ("_connection", "_schema")

    def __init__(self, connection: Any, schema: str) -> None:
        if _closed(connection):
            raise ConnectionLost(
                "The connection that was passed is closed, or back in its pool. Pass an open one, "
                "or none to use Soniq's."
            )
        self._connection = connection
        self._schema = schema

    async def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        sql, names = with_dollars(step.sql, self._schema)
        values = texts(step.params)
        rows = await self._connection.fetch(
            sql, *[values[name] for name in names], record_class=asyncpg.Record
        )
        return [step.decode(row) for row in rows]

    def atomic(self) -> AbstractAsyncContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""
        if self._connection.is_in_transaction():
            return None
        opened: AbstractAsyncContextManager[object] = self._connection.transaction()
        return opened

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of asyncpg into ours; None for any other."""
        if isinstance(error, _ERRORS):
            return translate(error, self._schema, lost=_closed(self._connection), lent=True)
        if isinstance(error, TimeoutError):  # an OSError too
            return DatabaseTimeout(
                "The database did not answer within the command_timeout of the connection that was "
                "passed. Look for locks in pg_stat_activity, or give it more time."
            )
        if isinstance(error, OSError):
            return ConnectionLost(f"The connection to the database failed: {error}")
        return None

    def where(self) -> Hashable:
        """Name the database by the address that asyncpg keeps, if this release of it does."""
        address = getattr(self._connection, "_addr", None)
        database = getattr(getattr(self._connection, "_params", None), "database", None)
        return None if address is None or database is None else (address, database)


def _closed(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # released: its pool may have lent it to somebody else
        return True
