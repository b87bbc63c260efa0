"""The pool's connections for the application's own SQL: `eq.backend.acquire()`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..db.aio import Database as AsyncDatabase
    from ..db.connection import AnyioConnection
    from ..db.sync import Database
    from ..db.sync_connection import Connection


class AsyncBackend:
    """Lends connections of the async client's pool."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database

    def acquire(self) -> AbstractAsyncContextManager[AnyioConnection]:
        """Lend a connection, in autocommit, for the length of a `with` block.

        It is a psycopg connection with `fetch`, `fetchrow` and `fetchval` added, which take `$1`
        or `%s`. What was not committed at the end of the block is rolled back.

        Raises:
            DatabaseTimeout: None came free within `pool_timeout`.
        """
        return self._database.acquire()

    def url(self) -> str:
        """Give the database's libpq URL, for other libraries; it may hold a password.

        Where none is set, the embedded PostgreSQL is started first, which blocks for a second.

        Raises:
            SettingsError: Connections come from your pool or factory, and no URL says where to.
        """
        return self._database.url()


class Backend:
    """Lends connections of the sync client's pool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self) -> AbstractContextManager[Connection]:
        """Lend a connection, in autocommit, for the length of a `with` block.

        It is a psycopg connection with `fetch`, `fetchrow` and `fetchval` added, which take `$1`
        or `%s`. What was not committed at the end of the block is rolled back.

        Raises:
            DatabaseTimeout: None came free within `pool_timeout`.
        """
        return self._database.acquire()

    def url(self) -> str:
        """Give the database's libpq URL, for other libraries; it may hold a password.

        Where none is set, the embedded PostgreSQL is started first, which blocks for a second.

        Raises:
            SettingsError: Connections come from your pool or factory, and no URL says where to.
        """
        return self._database.url()
