"""Addresses: what a URL says, what we add to it, and how it is shown without its password."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from soniq.errors import SettingsError
from soniq.settings import Settings

SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret"})

# A server that vanished without a word is noticed after 30 + 3 * 10 s while idle, and after 30 s
# while an answer is awaited; libpq's own defaults are two hours and never.
ALWAYS: Mapping[str, str] = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "soniq",
    "client_encoding": "utf8",
}


class Address:
    """A URL that is found out at first use, once; finding it may start a server and block."""

    def __init__(self, resolve: Callable[[], str], settings: Settings) -> None:
        self._resolve = resolve
        self._settings = settings
        self._lock = threading.Lock()
        self._parameters: dict[str, Any] | None = None

    def parameters(self) -> dict[str, Any]:
        """Give psycopg's connection parameters; blocks while the URL is found out.

        Raises:
            SettingsError: The URL is malformed.
        """
        if self._parameters is None:
            with self._lock:
                if self._parameters is None:
                    self._parameters = parameters(self._resolve(), self._settings)
        return dict(self._parameters)

    @property
    def known(self) -> bool:
        """Tell whether the URL was found out already, so that asking for it does not block."""
        return self._parameters is not None


def parameters(url: str, settings: Settings) -> dict[str, Any]:
    """Read a libpq URL or conninfo and add what we always want, unless the URL says otherwise.

    Raises:
        SettingsError: The URL is malformed. Neither it nor libpq's words are shown: both may hold
            a password.
    """
    given = _parsed(url)
    if given is None:
        raise SettingsError(
            "The database URL cannot be read. It must look like "
            "postgresql://user:password@host:5432/database, with special characters in the "
            "password percent-encoded, or like `host=... dbname=...`."
        )
    return {**ALWAYS, "connect_timeout": str(settings.connect_timeout), **given}


def needs_lookup(given: Mapping[str, Any]) -> bool:
    """Tell whether a host is named that must be looked up, which blocks."""
    if given.get("hostaddr"):
        return False
    hosts = [host for host in str(given.get("host") or "").split(",") if host]
    return not all(host.startswith(("/", "@")) or _is_address(host) for host in hosts)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def redacted(url: str) -> str:
    """Show a URL or conninfo with `***` in place of every secret; an unreadable one not at all."""
    given = _parsed(url)
    if given is None:
        return "(a database URL that cannot be read)"
    if "://" not in url:
        shown = {name: "***" if name in SECRETS else value for name, value in given.items()}
        return " ".join(f"{name}={value}" for name, value in sorted(shown.items()))
    return _as_url(given)


def _as_url(given: dict[str, Any]) -> str:
    user = quote(str(given.pop("user", "")), safe="")
    login = user + (":***" if given.pop("password", None) is not None else "")
    host, port = str(given.pop("host", "")), str(given.pop("port", ""))
    # A socket folder would read as a path of the URL.
    where = {"host": host, "port": port} if host.startswith("/") else {}
    place = "" if where else host + (f":{port}" if port else "")
    rest = {name: "***" if name in SECRETS else value for name, value in given.items()}
    name = quote(str(rest.pop("dbname", "")), safe="")
    query = urlencode({k: v for k, v in (where | rest).items() if v}, safe="/*")
    return f"postgresql://{login}{'@' if login else ''}{place}/{name}{'?' if query else ''}{query}"


def _parsed(url: str) -> dict[str, Any] | None:
    try:
        return conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError):
        return None
