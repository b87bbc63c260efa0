"""Where the application's database is: the URL it was given, or the embedded PostgreSQL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseMissing, EmbeddedUnavailable, SettingsError
from ..schema import migrate
from ..settings import Settings

if TYPE_CHECKING:
    from ..db.sync import Database


class Home:
    """Finds the database at first use; the embedded one is started and set up then.

    Args:
        settings: Where the URL is, if there is one.
        pool: The user's own pool, whose address is taken where no URL was given.
        lent: Whether connections come from the user's pool or factory.
    """

    def __init__(self, settings: Settings, pool: Any = None, *, lent: bool = False) -> None:
        self._settings = settings
        self._pool = pool
        self._lent = lent
        self._applied: list[str] = []
        self._lock = threading.Lock()

    def url(self) -> str:
        """Give the URL; blocks while the embedded server starts.

        Raises:
            SettingsError: Connections are the user's, and no URL says where they lead.
            EmbeddedUnavailable: There is no URL, and no embedded PostgreSQL to fall back on.
        """
        if self._settings.database_url is not None:
            return self._settings.database_url
        if self._lent:
            return self._lent_url()
        return self._embedded_url()

    def move_to(self, database_url: str) -> None:
        """Give another URL from now on.

        Raises:
            SettingsError: Connections come from the user's pool or factory.
        """
        if self._lent:
            raise SettingsError(
                "The application makes its connections itself (pool= or connection_factory=), so "
                "no other database URL can be given to it."
            )
        self._settings = self._settings.with_(database_url=database_url)

    def take_applied(self) -> list[str]:
        """Hand out, once, the migrations that starting the embedded server applied."""
        with self._lock:
            applied, self._applied = self._applied, []
        return applied

    def create_database(self) -> None:
        """Create the database that the URL names, on the server that it names; blocks.

        Raises:
            AccessDenied: The role may not.
        """
        from ..db.create import create_database

        create_database(self.url(), self._settings)

    def _lent_url(self) -> str:
        conninfo = getattr(self._pool, "conninfo", None)
        if isinstance(conninfo, str) and conninfo:
            return conninfo
        raise SettingsError(
            "A pool or connection_factory was given, and no database URL; connections outside "
            "of them (a worker's LISTEN, eq.sync) need one. Set database_url= beside it."
        )

    def _embedded_url(self) -> str:
        if self._settings.environment == "production":
            raise EmbeddedUnavailable(
                "No database URL is set, and the embedded PostgreSQL is not for production. "
                "Set SONIQ_DATABASE_URL (or database_url=)."
            )
        from ..db import embedded

        url = embedded.shared().url()
        applied = set_up(url, self._settings)
        with self._lock:
            self._applied += applied
        return url


def set_up(url: str, settings: Settings) -> list[str]:
    """Create the database if it is missing and bring its schema up to date; blocks.

    Returns:
        The names of the migrations applied now.
    """
    from ..db.create import create_database
    from ..db.sync import Database

    database = Database(settings.with_(pool_min_size=0), url=lambda: url)
    try:
        return _migrated(database)
    except DatabaseMissing:
        create_database(url, settings)
        return _migrated(database)
    finally:
        database.close()


def _migrated(database: Database) -> list[str]:
    connection = database.connect()
    try:
        return database.run_on(connection, migrate.setup)
    finally:
        connection.close()
