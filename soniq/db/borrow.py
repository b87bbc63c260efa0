"""Whose connection is this? From what a caller hands over to a host the drivers can use.

Kinds are told apart by `isinstance` against classes looked up in `sys.modules`: what is not loaded
cannot have been handed over, so nothing is imported to find out. The hosts of other libraries are
named, not imported: they stand above this package, in `integrations/`, and are loaded when a first
connection of theirs is lent. `register` adds kinds that are not in the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from soniq.errors import UnknownConnection

from .hosts import AsyncHost, Host
from .loops import on_trio
from .psycopg_hosts import AsyncPsycopgHost, PsycopgHost, usable


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of connection.

    Attributes:
        title: What people call it, for messages.
        module: Where its classes are found, once loaded.
        names: Its classes.
        sync: Makes a host for sync code of the object and our schema, or names what does, as in
            `package.module:function`; None: it cannot.
        aio: The same for async code.
        instead: The next step of somebody who passed it where it cannot be used.
        asyncio_only: Its library knows no other event loop.
    """

    title: str
    module: str
    names: tuple[str, ...]
    sync: Callable[[Any, str], Host] | str | None = None
    aio: Callable[[Any, str], AsyncHost] | str | None = None
    instead: str = ""
    asyncio_only: bool = False

    def takes(self, connection: object) -> bool:
        """Tell whether an object is of this kind."""
        module = sys.modules.get(self.module)
        classes = tuple(
            found for name in self.names if isinstance(found := getattr(module, name, None), type)
        )
        return isinstance(connection, classes)


class AliasKind(Kind):
    """The name of a connection, in a project of Django's, which keeps them by name."""

    def takes(self, connection: object) -> bool:
        """Tell whether it may be such a name."""
        conf = sys.modules.get("django.conf")
        configured = conf is not None and conf.settings.configured
        return isinstance(connection, str) and configured and self.module in sys.modules


def register(kind: Kind) -> None:
    """Teach the drivers a further kind of connection; the latest is asked first."""
    if kind not in _KINDS:
        _KINDS.insert(0, kind)


def borrowed(connection: object, schema: str) -> Host:
    """Find the sync host for what a caller handed over.

    Raises:
        UnknownConnection: It is of no kind that sync code can use.
        ConnectionLost: It is closed.
        TransactionAborted: Its transaction has failed before.
    """
    kind = _kind(connection)
    if kind is None or kind.sync is None:
        raise _unknown(connection, kind, [k.title for k in _KINDS if k.sync])
    host: Host = _made_by(kind.sync)(connection, schema)
    return host


def borrowed_async(connection: object, schema: str) -> AsyncHost:
    """Find the async host for what a caller handed over.

    Raises:
        UnknownConnection: It is of no kind that async code, or this event loop, can use.
        ConnectionLost: It is closed.
        TransactionAborted: Its transaction has failed before.
    """
    kind = _kind(connection)
    if kind is None or kind.aio is None:
        raise _unknown(connection, kind, [k.title for k in _KINDS if k.aio])
    if kind.asyncio_only and on_trio():
        raise UnknownConnection(
            f"{kind.title} works on asyncio only, and trio runs here. Run on asyncio, or pass a "
            "connection of `eq.backend.acquire()`."
        )
    host: AsyncHost = _made_by(kind.aio)(connection, schema)
    return host


def _kind(connection: object) -> Kind | None:
    return next((kind for kind in _KINDS if kind.takes(connection)), None)


@lru_cache
def _made_by(maker: Callable[[Any, str], Any] | str) -> Callable[[Any, str], Any]:
    if not isinstance(maker, str):
        return maker
    module, _, name = maker.partition(":")
    found: Callable[[Any, str], Any] = getattr(import_module(module), name)
    return found


def _unknown(connection: object, kind: Kind | None, taken: list[str]) -> UnknownConnection:
    what = f"{type(connection).__module__}.{type(connection).__qualname__}"
    if kind is not None:
        return UnknownConnection(f"This client cannot use a {what}. {kind.instead}")
    return UnknownConnection(
        f"Soniq cannot use a {what} as a connection. It takes: {', '.join(taken)}."
    )


def _connection(connection: Any, schema: str) -> Host:
    usable(connection)
    return PsycopgHost(connection, schema, own=False)


def _async_connection(connection: Any, schema: str) -> AsyncHost:
    usable(connection)
    return AsyncPsycopgHost(connection, schema, own=False)


_TO_SYNC = "It is async: use the async client (Soniq), or pass a {} to this sync one."
_TO_ASYNC = (
    "It is sync: use the sync client (SoniqSync, or `eq.sync`), or pass {} to this async one."
)
_POOL = "It is a pool: pass a connection of it, as in `with pool.connection() as conn:`."
_ASYNC_POOL = _POOL.replace("`with", "`async with")

_SQLALCHEMY = "soniq.integrations.sqlalchemy"
_PSYCOPG2 = "soniq.integrations.psycopg2"
_DJANGO = "soniq.integrations.django.hosts"

_KINDS: list[Kind] = [
    Kind(
        "psycopg.Connection",
        "psycopg",
        ("Connection",),
        sync=_connection,
        instead=_TO_ASYNC.format("a psycopg.AsyncConnection"),
    ),
    Kind(
        "psycopg.AsyncConnection",
        "psycopg",
        ("AsyncConnection",),
        aio=_async_connection,
        instead=_TO_SYNC.format("psycopg.Connection"),
    ),
    Kind(
        "psycopg.Cursor",
        "psycopg",
        ("Cursor", "ServerCursor"),
        sync=lambda cursor, schema: _connection(cursor.connection, schema),
        instead=_TO_ASYNC.format("a psycopg.AsyncConnection"),
    ),
    Kind(
        "psycopg.AsyncCursor",
        "psycopg",
        ("AsyncCursor", "AsyncServerCursor"),
        aio=lambda cursor, schema: _async_connection(cursor.connection, schema),
        instead=_TO_SYNC.format("psycopg.Connection"),
    ),
    Kind("a pool", "psycopg_pool", ("ConnectionPool",), instead=_POOL),
    Kind("an async pool", "psycopg_pool", ("AsyncConnectionPool",), instead=_ASYNC_POOL),
    Kind(
        "SQLAlchemy's Session and scoped_session (Flask-SQLAlchemy, SQLModel)",
        "sqlalchemy.orm",
        ("Session", "scoped_session"),
        sync=f"{_SQLALCHEMY}:session_host",
        instead=_TO_ASYNC.format("an AsyncSession"),
    ),
    Kind(
        "SQLAlchemy's Connection",
        "sqlalchemy.engine",
        ("Connection",),
        sync=f"{_SQLALCHEMY}:connection_host",
        instead=_TO_ASYNC.format("an AsyncConnection"),
    ),
    Kind(
        "SQLAlchemy's AsyncSession and async_scoped_session",
        "sqlalchemy.ext.asyncio",
        ("AsyncSession", "async_scoped_session"),
        aio=f"{_SQLALCHEMY}:async_session_host",
        instead=_TO_SYNC.format("Session"),
        asyncio_only=True,
    ),
    Kind(
        "SQLAlchemy's AsyncConnection",
        "sqlalchemy.ext.asyncio",
        ("AsyncConnection",),
        aio=f"{_SQLALCHEMY}:async_connection_host",
        instead=_TO_SYNC.format("Connection"),
        asyncio_only=True,
    ),
    Kind(
        "Django's connection and connections[alias]",
        "django.utils.connection",
        ("ConnectionProxy",),
        sync=f"{_DJANGO}:DjangoHost",
        aio=f"{_DJANGO}:AsyncDjangoHost",
        asyncio_only=True,
    ),
    AliasKind(
        "the alias of one",
        "django.db.utils",
        (),
        sync=f"{_DJANGO}:alias_host",
        aio=f"{_DJANGO}:async_alias_host",
        asyncio_only=True,
    ),
    Kind(
        "Django's DatabaseWrapper",
        "django.db.backends.base.base",
        ("BaseDatabaseWrapper",),
        sync=f"{_DJANGO}:DjangoHost",
        aio=f"{_DJANGO}:AsyncDjangoHost",
        asyncio_only=True,
    ),
    Kind(
        "asyncpg's Connection, of a pool too",
        "asyncpg",
        ("Connection",),
        aio="soniq.integrations.asyncpg:AsyncpgHost",
        instead=_TO_SYNC.format("psycopg.Connection"),
        asyncio_only=True,
    ),
    Kind(
        "psycopg2's connection",
        "psycopg2.extensions",
        ("connection",),
        sync=f"{_PSYCOPG2}:Psycopg2Host",
        instead=_TO_ASYNC.format("a psycopg.AsyncConnection"),
    ),
    Kind(
        "psycopg2's cursor",
        "psycopg2.extensions",
        ("cursor",),
        sync=f"{_PSYCOPG2}:of_cursor",
        instead=_TO_ASYNC.format("a psycopg.AsyncConnection"),
    ),
    Kind(
        "a pool of psycopg2",
        "psycopg2.pool",
        ("AbstractConnectionPool",),
        instead="It is a pool: pass a connection of it, as of `pool.getconn()`.",
    ),
    Kind(
        "a pool of asyncpg",
        "asyncpg",
        ("Pool",),
        instead="It is a pool: pass a connection of it, as in `async with pool.acquire() as "
        "conn:`.",
    ),
    Kind(
        "an engine",
        "sqlalchemy.engine",
        ("Engine",),
        instead="It is an engine: pass a Session, or a connection as in `with engine.begin() as "
        "conn:`.",
    ),
    Kind(
        "an async engine",
        "sqlalchemy.ext.asyncio",
        ("AsyncEngine",),
        instead="It is an engine: pass an AsyncSession, or a connection as in `async with "
        "engine.begin() as conn:`.",
    ),
    Kind(
        "Flask-SQLAlchemy",
        "flask_sqlalchemy",
        ("SQLAlchemy",),
        instead="It is the extension: pass its session, as in `connection=db.session`.",
    ),
]
