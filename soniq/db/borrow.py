"""Whose connection is this? From what a caller hands over to a host the drivers can use.

Kinds are told apart by `isinstance` against classes looked up in `sys.modules`: what is not loaded
cannot have been handed over, so nothing is imported to find out. Further hosts (Django, SQLAlchemy,
asyncpg, psycopg2) are added with `register`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from soniq.errors import UnknownConnection

from .hosts import AsyncHost, Host
from .psycopg_hosts import AsyncPsycopgHost, PsycopgHost, usable


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of connection.

    Attributes:
        title: What people call it, for messages.
        module: Where its classes are found, once loaded.
        names: Its classes.
        sync: Makes a host for sync code of the object and our schema; None: it cannot.
        aio: Makes a host for async code; None: it cannot.
        instead: The next step of somebody who passed it where it cannot be used.
    """

    title: str
    module: str
    names: tuple[str, ...]
    sync: Callable[[Any, str], Host] | None = None
    aio: Callable[[Any, str], AsyncHost] | None = None
    instead: str = ""

    def takes(self, connection: object) -> bool:
        """Tell whether an object is of this kind."""
        module = sys.modules.get(self.module)
        classes = tuple(
            found for name in self.names if isinstance(found := getattr(module, name, None), type)
        )
        return isinstance(connection, classes)


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
    return kind.sync(connection, schema)


def borrowed_async(connection: object, schema: str) -> AsyncHost:
    """Find the async host for what a caller handed over.

    Raises:
        UnknownConnection: It is of no kind that async code can use.
        ConnectionLost: It is closed.
        TransactionAborted: Its transaction has failed before.
    """
    kind = _kind(connection)
    if kind is None or kind.aio is None:
        raise _unknown(connection, kind, [k.title for k in _KINDS if k.aio])
    return kind.aio(connection, schema)


def _kind(connection: object) -> Kind | None:
    return next((kind for kind in _KINDS if kind.takes(connection)), None)


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


_TO_SYNC = (
    "It is async: use the async client (Soniq), or pass a psycopg.Connection to this sync one."
)
_TO_ASYNC = (
    "It is sync: use the sync client (SoniqSync, or `eq.sync`), or pass a psycopg.AsyncConnection "
    "to this async one."
)

_KINDS: list[Kind] = [
    Kind(
        "psycopg.Connection",
        "psycopg",
        ("Connection",),
        sync=_connection,
        instead=_TO_ASYNC,
    ),
    Kind(
        "psycopg.AsyncConnection",
        "psycopg",
        ("AsyncConnection",),
        aio=_async_connection,
        instead=_TO_SYNC,
    ),
    Kind(
        "psycopg.Cursor",
        "psycopg",
        ("Cursor", "ServerCursor"),
        sync=lambda cursor, schema: _connection(cursor.connection, schema),
        instead=_TO_ASYNC,
    ),
    Kind(
        "psycopg.AsyncCursor",
        "psycopg",
        ("AsyncCursor", "AsyncServerCursor"),
        aio=lambda cursor, schema: _async_connection(cursor.connection, schema),
        instead=_TO_SYNC,
    ),
    Kind(
        "a pool",
        "psycopg_pool",
        ("ConnectionPool",),
        instead="It is a pool: pass a connection of it, as in `with pool.connection() as conn:`.",
    ),
    Kind(
        "an async pool",
        "psycopg_pool",
        ("AsyncConnectionPool",),
        instead="It is a pool: pass a connection of it, as in `async with pool.connection() as "
        "conn:`.",
    ),
]
