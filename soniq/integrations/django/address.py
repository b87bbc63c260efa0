"""From an entry of DATABASES to the address that Soniq's own connections use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import pq
from psycopg.conninfo import make_conninfo

from ...client.address import Home
from ...errors import SettingsError
from ...settings import Settings

_NAMES = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}


class DjangoHome(Home):
    """The database of an entry of DATABASES, asked for at first use: tests change its name.

    Args:
        settings: Soniq's own.
        alias: The entry.
    """

    def __init__(self, settings: Settings, alias: str) -> None:
        super().__init__(settings)
        self._alias: str | None = alias

    @property
    def alias(self) -> str | None:
        """The entry, unless the command line moved away from it."""
        return self._alias

    def url(self) -> str:
        """Give the address.

        Raises:
            SettingsError: The entry is of another kind of database.
        """
        if self._alias is None:
            return super().url()
        from django.db import connections

        connection = connections[self._alias]
        if connection.vendor != "postgresql":  # libpq would look for a server of its own choice
            raise SettingsError(
                f"DATABASES[{self._alias!r}] is {connection.vendor}, and Soniq needs PostgreSQL. "
                "Name an entry that is in SONIQ['DATABASE'], or give a SONIQ['DATABASE_URL']."
            )
        return conninfo(connection.settings_dict)

    def move_to(self, database_url: str) -> None:
        """Give another address from now on."""
        super().move_to(database_url)
        self._alias = None


def conninfo(entry: Mapping[str, Any]) -> str:
    """Write an entry of DATABASES as libpq reads it.

    Of OPTIONS it takes what libpq knows (`sslmode`, `service`, `connect_timeout`, ...), and
    `assume_role`. The rest is about Django's own connections: their name, pool, isolation, cursors.
    """
    parts = {ours: str(entry[name]) for name, ours in _NAMES.items() if entry.get(name)}
    options = dict(entry.get("OPTIONS") or {})
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    known.discard("application_name")
    parts |= {key: str(value) for key, value in options.items() if key in known}
    if role := options.get("assume_role"):
        setting = f"-c role={str(role).replace(chr(92), chr(92) * 2).replace(' ', chr(92) + ' ')}"
        parts["options"] = f"{parts.get('options', '')} {setting}".strip()
    return make_conninfo("", **parts)
