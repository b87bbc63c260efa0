"""Django's connections as hosts: jobs in the transaction of `atomic()`.

Statements go through `connection.cursor()`, as Django's own do: they count in `assertNumQueries`,
meet `execute_wrapper`, and run on psycopg and psycopg2 alike.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections, transaction
from django.db.utils import Error as DjangoError

from ...db.faults import translate
from ...db.hosts import AsyncHost, Host, place_of
from ...db.render import render
from ...db.sync import drive as sync_drive
from ...db.texts import texts
from ...errors import (
    ConnectionLost,
    DatabaseError,
    SoniqError,
    TransactionAborted,
    UnknownConnection,
)
from ...steps import Atomic, Batch, Query, Script

P = ParamSpec("P")
R = TypeVar("R")

_IDLE = 0  # the same number in psycopg and psycopg2


class DjangoHost(Host):
    """A `DatabaseWrapper`, or the proxy that `django.db.connection` is, in the thread that uses it.

    Raises:
        UnknownConnection: It leads to another kind of database.
    """

    __slots__ = ("_connection", "_schema")

    def __init__(self, connection: Any, schema: str) -> None:
        _check(connection)
        self._connection = connection
        self._schema = schema

    def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(render(step.sql, self._schema), texts(step.params))
            rows = cursor.fetchall() if cursor.description is not None else ()
        return [step.decode(row) for row in rows]

    def script(self, step: Script) -> None:
        """Run a text of several statements, as migrations are."""
        with self._connection.cursor() as cursor:
            cursor.execute(render(step.sql, self._schema))  # without parameters, even empty ones

    def atomic(self) -> AbstractContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""
        connection = self._connection
        if connection.in_atomic_block or not connection.get_autocommit():
            return None
        if connection.connection.info.transaction_status != _IDLE:  # somebody's own BEGIN
            return None
        opened: Any = transaction.atomic(using=connection.alias)
        return opened  # type: ignore[no-any-return]

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of Django's database layer into ours; None for any other."""
        if isinstance(error, transaction.TransactionManagementError):
            return TransactionAborted(
                "The transaction has failed before, within its atomic() block. Leave the block by "
                "an exception, or wrap what may fail in an atomic() of its own.",
                sqlstate="25P02",
            )
        if isinstance(error, DjangoError):
            return self._fault(error)
        if isinstance(error, SynchronousOnlyOperation):
            return UnknownConnection(
                "Django's connections cannot be used in async code by the sync client. Await the "
                "async one (Soniq), or call this in a function under sync_to_async()."
            )
        return None

    def where(self) -> Hashable:
        """Name the database as libpq does."""
        return place_of(self._connection.connection)

    def _fault(self, error: Exception) -> SoniqError:
        driver = self._connection.connection
        lost = driver is None or bool(driver.closed)
        if isinstance(error.__cause__, Exception):
            return translate(error.__cause__, self._schema, lost=lost, lent=True)
        if lost:
            return ConnectionLost(
                f"The connection that was passed is closed: {error} Pass an open one, or none to "
                "use Soniq's."
            )
        return DatabaseError(f"Django refused: {error}")


class AsyncDjangoHost(AsyncHost):
    """The same for async code: each step is done in the thread that Django keeps for such calls.

    A connection of Django belongs to a thread; that thread's own is taken, by its alias. So what
    was begun there, under `sync_to_async`, is joined.
    """

    __slots__ = ("_alias", "_schema")

    def __init__(self, connection: Any, schema: str) -> None:
        _check(connection)
        self._alias: str = connection.alias
        self._schema = schema

    async def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        return await self._there(DjangoHost.query, step)

    async def batch(self, step: Batch) -> list[list[Any]]:
        """Run several in one transaction."""
        return await self._there(DjangoHost.batch, step)

    async def script(self, step: Script) -> None:
        """Run a text of several statements, as migrations are."""
        await self._there(DjangoHost.script, step)

    async def whole(self, step: Atomic[R], drive: object) -> R:
        """Do all of it in one call, so that nobody else's runs within our transaction."""
        return await self._there(lambda host, step: host.whole(step, sync_drive), step)

    def atomic(self) -> None:
        """Give none: see `whole`."""

    def translate(self, error: Exception) -> SoniqError | None:
        """Leave it: errors are translated where they are raised."""
        return None

    async def _there(self, do: Callable[[DjangoHost, Any], R], step: object) -> R:
        def hop() -> R:
            host = DjangoHost(connections[self._alias], self._schema)
            try:
                return do(host, step)
            except Exception as error:  # noqa: BLE001
                raise host.translate(error) or error from error.__cause__

        done: R = await sync_to_async(hop, thread_sensitive=True)()
        return done


def alias_host(alias: str, schema: str) -> Host:
    """Make the host of the connection that DATABASES has by a name."""
    return DjangoHost(_by_alias(alias), schema)


def async_alias_host(alias: str, schema: str) -> AsyncHost:
    """Make the same for async code."""
    return AsyncDjangoHost(_by_alias(alias), schema)


def _by_alias(alias: str) -> Any:
    if alias not in (known := list(connections)):
        what = repr(alias) if alias.isidentifier() else "such alias"  # a URL has a password
        raise UnknownConnection(
            f"DATABASES has no {what}. Pass one of {', '.join(known)}, or a connection."
        )
    return connections[alias]


def _check(connection: Any) -> None:
    vendor = getattr(connection, "vendor", None)
    if vendor != "postgresql":
        raise UnknownConnection(
            f"What was passed leads to {vendor or 'no database'}. Pass the connection of the "
            "PostgreSQL database that Soniq is set up in, as in `connections['jobs']`."
        )
