"""SQLAlchemy: jobs in the transaction of a session or connection, sync or async.

`eq.enqueue(..., connection=session)` and `eq.within(session)` need no import of this module; its
`within` picks the client of the session's colour as well.

Every statement goes through SQLAlchemy as a `text()`, never to the driver's connection beneath:
under asyncpg SQLAlchemy begins its transaction lazily, and what is written below it before that is
committed at once, whatever becomes of the session. Nothing is flushed: that is the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, overload

from sqlalchemy import exc, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.sql.elements import TextClause

from ..db.faults import translate
from ..db.hosts import AsyncHost, Host, place_of
from ..db.render import with_colons
from ..db.texts import texts
from ..errors import (
    ConnectionLost,
    DatabaseError,
    DatabaseTimeout,
    SoniqError,
    TransactionAborted,
    UnknownConnection,
)
from ..steps import Query

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    from ..client.aio import Soniq
    from ..client.sync import SoniqSync

    SyncKinds: TypeAlias = Session | scoped_session[Any] | Connection
    AsyncKinds: TypeAlias = AsyncSession | async_scoped_session[Any] | AsyncConnection

R = TypeVar("R")

# What is set on the caller's connection for long results is not for a statement of ours.
_PLAINLY: Final = {"stream_results": False, "yield_per": None}
_BEGIN, _COMMIT, _ROLLBACK = text("BEGIN"), text("COMMIT"), text("ROLLBACK")


@overload
def within(eq: Soniq | SoniqSync, session: SyncKinds) -> SoniqSync: ...
@overload
def within(eq: Soniq, session: AsyncKinds) -> Soniq: ...
def within(eq: Soniq | SoniqSync, session: SyncKinds | AsyncKinds) -> Soniq | SoniqSync:
    """Give the application's client for a session, bound to it.

    Args:
        eq: The application, by its client of either colour.
        session: A `Session`, a `scoped_session` (as of Flask-SQLAlchemy) or a `Connection` for the
            sync client; an `AsyncSession`, `async_scoped_session` or `AsyncConnection` for the
            async one. It stays the caller's: nothing in it is flushed, committed or rolled back.
    """
    if isinstance(session, Session | scoped_session | Connection):
        from ..client.sync import SoniqSync

        client = eq if isinstance(eq, SoniqSync) else eq.sync
        return client.within(session)
    return eq.within(session)


class SqlalchemyHost(Host):
    """A `Session` or a `Connection`.

    Args:
        lend: Gives its connection; begins its transaction, if need be, as the caller's own
            statements do.
        schema: The schema of our tables.
    """

    __slots__ = ("_lend", "_schema")

    def __init__(self, lend: Callable[[], Connection], schema: str) -> None:
        self._lend = lend
        self._schema = schema

    def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        connection = self._lend()
        _check(connection)
        result = connection.execute(
            _statement(step.sql, self._schema), texts(step.params), execution_options=_PLAINLY
        )
        rows = result.all() if result.returns_rows else ()
        return [step.decode(row) for row in rows]

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Open a transaction, but only on a connection in autocommit: any other is in one."""
        connection = self._lend()
        if not _commits_itself(connection):
            yield
            return
        connection.execute(_BEGIN)
        try:
            yield
        except BaseException:
            connection.execute(_ROLLBACK)
            raise
        connection.execute(_COMMIT)

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of SQLAlchemy into ours; None for any other."""
        return _translated(error, self._schema)

    def where(self) -> Hashable:
        """Name the database as libpq does."""
        return place_of(self._lend().connection.driver_connection)


class AsyncSqlalchemyHost(AsyncHost):
    """An `AsyncSession` or an `AsyncConnection`; the twin of `SqlalchemyHost`."""

    __slots__ = ("_lend", "_schema")

    def __init__(self, lend: Callable[[], Awaitable[AsyncConnection]], schema: str) -> None:
        self._lend = lend
        self._schema = schema

    async def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""
        connection = await self._lend()
        _check(connection.sync_connection)
        result = await connection.execute(
            _statement(step.sql, self._schema), texts(step.params), execution_options=_PLAINLY
        )
        rows = result.all() if result.returns_rows else ()
        return [step.decode(row) for row in rows]

    @asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """Open a transaction, but only on a connection in autocommit: any other is in one."""
        connection = await self._lend()
        if not _commits_itself(connection.sync_connection):
            yield
            return
        await connection.execute(_BEGIN)
        try:
            yield
        except BaseException:
            await connection.execute(_ROLLBACK)
            raise
        await connection.execute(_COMMIT)

    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of SQLAlchemy into ours; None for any other."""
        return _translated(error, self._schema)


def session_host(session: Session | scoped_session[Any], schema: str) -> Host:
    """Make the host of a session."""
    return SqlalchemyHost(session.connection, schema)


def connection_host(connection: Connection, schema: str) -> Host:
    """Make the host of a connection."""
    return SqlalchemyHost(lambda: connection, schema)


def async_session_host(session: AsyncSession | async_scoped_session[Any], schema: str) -> AsyncHost:
    """Make the host of an async session."""
    return AsyncSqlalchemyHost(session.connection, schema)


def async_connection_host(connection: AsyncConnection, schema: str) -> AsyncHost:
    """Make the host of an async connection."""

    async def lend() -> AsyncConnection:
        return connection

    return AsyncSqlalchemyHost(lend, schema)


@lru_cache(maxsize=1024)
def _statement(sql: str, schema: str) -> TextClause:
    return text(with_colons(sql, schema))


def _check(connection: Connection | None) -> None:
    if connection is not None and connection.dialect.name != "postgresql":
        raise UnknownConnection(
            f"The session or connection that was passed leads to {connection.dialect.name}. Pass "
            "one to the PostgreSQL database that Soniq is set up in."
        )


def _commits_itself(connection: Connection | None) -> bool:
    """Tell whether each statement would be a transaction of its own (`AUTOCOMMIT`)."""
    if connection is None:
        return False
    lent = connection.connection
    if not getattr(lent.dbapi_connection, "autocommit", False):
        return False
    driver: Any = lent.driver_connection
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return not driver.is_in_transaction()
    return bool(driver.info.transaction_status == 0)


def _translated(error: Exception, schema: str) -> SoniqError | None:
    match error:
        case exc.DBAPIError(orig=Exception() as original):
            # asyncpg's own stands behind SQLAlchemy's wrapper of it.
            behind = original.__cause__
            source = behind if isinstance(behind, Exception) else original
            lost = error.connection_invalidated
            return translate(source, schema, lost=lost, lent=True)
        case exc.PendingRollbackError():
            return TransactionAborted(
                "The session's transaction has failed before. Roll it back, or to a savepoint, and "
                "try again.",
                sqlstate="25P02",
            )
        case exc.ResourceClosedError():
            return ConnectionLost(
                "The connection that was passed is closed. Pass an open one, or none to use "
                "Soniq's."
            )
        case exc.TimeoutError():
            return DatabaseTimeout(f"SQLAlchemy's pool lent no connection: {error}")
        case exc.UnboundExecutionError():
            return UnknownConnection(
                f"The session does not say which database to use: {error} Pass "
                "`session.connection(bind_arguments=...)` instead."
            )
        case exc.SQLAlchemyError():
            return DatabaseError(f"SQLAlchemy refused: {error}")
        case _:
            return None
