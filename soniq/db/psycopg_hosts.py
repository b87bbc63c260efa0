"""The hosts that are psycopg's connections, sync and async, ours and borrowed ones."""

from __future__ import annotations

import select
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import pq, rows
from psycopg.adapt import AdaptersMap
from psycopg.postgres import register_default_adapters, register_default_types
from psycopg.types import TypesRegistry

from soniq.errors import ConnectionLost, ReadOnlyServer, SoniqError, TransactionAborted
from soniq.steps import Batch, CopyIn, Query, Script, nothing

from . import direct
from .faults import MAYBE_STALE, stale_plan, translate
from .hosts import AsyncHost, Host
from .render import encoded

R = TypeVar("R")
Connection: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"

_IDLE = pq.TransactionStatus.IDLE
_INERROR = pq.TransactionStatus.INERROR
_TUPLES = pq.ExecStatus.TUPLES_OK

# A cursor is kept with our own connections, and with it its last result: not a large one.
_ROWS_TO_KEEP = 100


def _plain_adapters() -> AdaptersMap:
    types = TypesRegistry()
    register_default_types(types)
    adapters = AdaptersMap(types=types)
    register_default_adapters(adapters)
    return adapters


# psycopg's as they came, whatever the user registered globally or on a connection.
PLAIN = _plain_adapters()


class PlainCursor(psycopg.Cursor[rows.TupleRow]):
    """A cursor that neither uses nor touches what its connection's owner set up."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(connection, row_factory=rows.tuple_row)
        self._adapters = PLAIN


class PlainAsyncCursor(psycopg.AsyncCursor[rows.TupleRow]):
    """The same for async connections."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__(connection, row_factory=rows.tuple_row)
        self._adapters = PLAIN


class PsycopgHost(Host):
    """A `psycopg.Connection`.

    Args:
        connection: Any class of psycopg's, in any of its states but closed or failed.
        schema: The schema of our tables.
        own: It came from our pool: nobody else uses it, so its cursor is kept, and it may be put
            in pipeline mode.
    """

    __slots__ = ("_connection", "_own", "_schema", "spent")

    def __init__(self, connection: psycopg.Connection[Any], schema: str, *, own: bool) -> None:
        self._connection = connection
        self._schema = schema
        self._own = own
        self.spent = False  # not to be used again

    def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        sql = encoded(step.sql, self._schema)
        cursor = None
        try:
            if step.decode is nothing:
                count = direct.execute(self._connection, sql, step.params)
                if count is not None:
                    return [None] * count  # type: ignore[list-item]
            cursor = self._cursor()
            cursor.execute(sql, step.params, binary=step.binary)
        except MAYBE_STALE as error:
            if not self._spoiled(error):
                raise
            cursor = cursor or self._cursor()
            cursor.execute(sql, step.params, binary=step.binary, prepare=False)
        if cursor.pgresult is None:  # the caller is in pipeline mode: send, and wait
            cursor._fetch_pipeline()
        return decoded(step, cursor.fetchall()) if has_rows(cursor) else []

    def batch(self, step: Batch) -> list[list[Any]]:
        """Run several in one transaction: in one round trip on a connection of ours."""
        if not (self._own and psycopg.Pipeline.is_supported()):
            return super().batch(step)
        # Without a sync between them, the server takes them for one transaction: all or nothing.
        with forgetful(self._connection), self._connection.pipeline():
            cursors = [self._sent(query) for query in step.queries]
        return [
            decoded(query, cursor.fetchall()) if has_rows(cursor) else []
            for query, cursor in zip(step.queries, cursors, strict=True)
        ]

    def script(self, step: Script) -> None:
        """Run a text of several statements."""
        with unhurried(self._connection):
            PlainCursor(self._connection).execute(encoded(step.sql, self._schema))

    def copy(self, step: CopyIn) -> int:
        """Stream rows in; answer their number."""
        cursor = PlainCursor(self._connection)
        with cursor.copy(encoded(step.sql, self._schema)) as copy:
            for chunk in step.chunks:
                copy.write(chunk)
        return cursor.rowcount

    def atomic(self) -> AbstractContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""
        # Idle but not in autocommit: psycopg would COMMIT at the end of transaction(), although
        # its owner counts on being in a transaction already.
        if self._connection.autocommit and outside_transaction(self._connection):
            return self._connection.transaction()
        return None

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of psycopg into ours; None for any other."""
        fault = translated(error, self._schema, self._connection, lent=not self._own)
        # It may have been demoted, and would be for ever: a new connection looks for the primary.
        self.spent = self.spent or isinstance(fault, ReadOnlyServer)
        return fault

    def where(self) -> Hashable:
        """Name the database as libpq does."""
        return where(self._connection)

    def _cursor(self) -> PlainCursor:
        if not self._own:
            return PlainCursor(self._connection)
        kept: PlainCursor | None = getattr(self._connection, "plain_cursor", None)
        if kept is None or too_large(kept):
            kept = self._connection.plain_cursor = PlainCursor(self._connection)  # type: ignore[attr-defined]
        return kept

    def _sent(self, step: Query[Any]) -> PlainCursor:
        sql = encoded(step.sql, self._schema)
        return PlainCursor(self._connection).execute(sql, step.params, binary=step.binary)

    def _spoiled(self, error: psycopg.Error) -> bool:
        """Tell whether the statement may be sent again, without its outdated preparation."""
        self.spent = stale_plan(error)
        return self.spent and outside_transaction(self._connection)


class AsyncPsycopgHost(AsyncHost):
    """A `psycopg.AsyncConnection`; the twin of `PsycopgHost`."""

    __slots__ = ("_connection", "_own", "_schema", "spent")

    def __init__(self, connection: psycopg.AsyncConnection[Any], schema: str, *, own: bool) -> None:
        self._connection = connection
        self._schema = schema
        self._own = own
        self.spent = False

    async def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        sql = encoded(step.sql, self._schema)
        cursor = None
        try:
            if step.decode is nothing:
                count = await direct.execute_async(self._connection, sql, step.params)
                if count is not None:
                    return [None] * count  # type: ignore[list-item]
            cursor = self._cursor()
            await cursor.execute(sql, step.params, binary=step.binary)
        except MAYBE_STALE as error:
            if not self._spoiled(error):
                raise
            cursor = cursor or self._cursor()
            await cursor.execute(sql, step.params, binary=step.binary, prepare=False)
        if cursor.pgresult is None:  # the caller is in pipeline mode: send, and wait
            await cursor._fetch_pipeline()
        return decoded(step, await cursor.fetchall()) if has_rows(cursor) else []

    async def batch(self, step: Batch) -> list[list[Any]]:
        """Run several in one transaction: in one round trip on a connection of ours."""
        if not (self._own and psycopg.AsyncPipeline.is_supported()):
            return await super().batch(step)
        with forgetful(self._connection):
            async with self._connection.pipeline():
                cursors = [await self._sent(query) for query in step.queries]
        return [
            decoded(query, await cursor.fetchall()) if has_rows(cursor) else []
            for query, cursor in zip(step.queries, cursors, strict=True)
        ]

    async def script(self, step: Script) -> None:
        """Run a text of several statements."""
        with unhurried(self._connection):
            await PlainAsyncCursor(self._connection).execute(encoded(step.sql, self._schema))

    async def copy(self, step: CopyIn) -> int:
        """Stream rows in; answer their number."""
        cursor = PlainAsyncCursor(self._connection)
        async with cursor.copy(encoded(step.sql, self._schema)) as copy:
            for chunk in step.chunks:
                await copy.write(chunk)
        return cursor.rowcount

    def atomic(self) -> AbstractAsyncContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""
        if self._connection.autocommit and outside_transaction(self._connection):
            return self._connection.transaction()
        return None

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of psycopg into ours; None for any other."""
        fault = translated(error, self._schema, self._connection, lent=not self._own)
        # It may have been demoted, and would be for ever: a new connection looks for the primary.
        self.spent = self.spent or isinstance(fault, ReadOnlyServer)
        return fault

    def where(self) -> Hashable:
        """Name the database as libpq does."""
        return where(self._connection)

    def _cursor(self) -> PlainAsyncCursor:
        if not self._own:
            return PlainAsyncCursor(self._connection)
        kept: PlainAsyncCursor | None = getattr(self._connection, "plain_cursor", None)
        if kept is None or too_large(kept):
            kept = self._connection.plain_cursor = PlainAsyncCursor(self._connection)  # type: ignore[attr-defined]
        return kept

    async def _sent(self, step: Query[Any]) -> PlainAsyncCursor:
        sql = encoded(step.sql, self._schema)
        cursor = PlainAsyncCursor(self._connection)
        return await cursor.execute(sql, step.params, binary=step.binary)

    def _spoiled(self, error: psycopg.Error) -> bool:
        """Tell whether the statement may be sent again, without its outdated preparation."""
        self.spent = stale_plan(error)
        return self.spent and outside_transaction(self._connection)


@contextmanager
def forgetful(connection: Connection) -> Iterator[None]:
    """Forget what is prepared when a pipeline fails.

    psycopg takes a statement for prepared that the server, after another's fault, never looked at.
    """
    try:
        yield
    except BaseException:
        connection._prepared.clear()
        raise


@contextmanager
def unhurried(connection: Any) -> Iterator[None]:
    """Lift our limit on the time an answer may take; a borrowed connection has none."""
    if (limit := getattr(connection, "limit", None)) is None:
        yield
        return
    connection.limit = None
    try:
        yield
    finally:
        connection.limit = limit


def decoded(step: Query[R], fetched: Sequence[Sequence[Any]]) -> list[R]:
    """Decode the rows of one statement."""
    decode = step.decode
    return [decode(row) for row in fetched]


def has_rows(cursor: PlainCursor | PlainAsyncCursor) -> bool:
    """Tell whether the last statement answered rows, be it none of them."""
    result = cursor.pgresult
    return result is not None and result.status == _TUPLES


def too_large(cursor: PlainCursor | PlainAsyncCursor) -> bool:
    """Tell whether keeping a cursor would keep a large result in memory."""
    result = cursor.pgresult
    return result is not None and result.ntuples > _ROWS_TO_KEEP


def outside_transaction(connection: Connection) -> bool:
    """Tell whether no transaction is open, nor failed, on a psycopg connection."""
    return connection.pgconn.transaction_status == _IDLE


def where(connection: Connection) -> Hashable:
    """Name the database of an open psycopg connection, without asking it."""
    pgconn = connection.pgconn
    return pgconn.host, pgconn.port, pgconn.db


def usable(connection: Connection) -> None:
    """Refuse a borrowed psycopg connection on which no statement can run.

    Raises:
        ConnectionLost: It is closed.
        TransactionAborted: Its transaction has failed.
    """
    if connection.closed:
        raise ConnectionLost(
            "The connection that was passed is closed. Pass an open one, or none to use Soniq's."
        )
    if connection.pgconn.transaction_status == _INERROR:
        raise TransactionAborted(
            "The transaction of the connection that was passed has failed before. Roll it back, "
            "or to a savepoint, and try again.",
            sqlstate="25P02",
        )


def quiet(connection: Connection) -> bool:
    """Tell, without waiting, whether the server has kept silent on an idle connection.

    What a server says unasked is nearly always its goodbye; the caller should look closer or throw
    the connection away. Costs two microseconds, so it is done whenever a connection is handed out.
    """
    try:
        poll = select.poll()
        poll.register(connection.pgconn.socket, select.POLLIN)
        return not poll.poll(0)
    except (OSError, ValueError, psycopg.Error):
        return False


def translated(
    error: Exception, schema: str, connection: Connection, *, lent: bool
) -> SoniqError | None:
    """Turn an error of psycopg into ours; None for any other."""
    if isinstance(error, psycopg.Error):
        return translate(error, schema, lost=connection.closed, lent=lent)
    return None
