"""The project's clients: one application, made of its settings at first use."""

from __future__ import annotations

import sys
import threading
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created

from ...client.application import Application, install
from ...db.loops import on_trio
from ...errors import SettingsError, UsageError
from . import config, hygiene
from .address import DjangoHome
from .ready import start
from .using import DjangoSoniq

_lock = threading.RLock()
_made: list[DjangoSoniq] = []


def client() -> DjangoSoniq:
    """Give the project's client; the first call makes it, and does no I/O.

    A process that is no part of Django yet (`soniq worker`) becomes one.

    Raises:
        ImproperlyConfigured: `settings.SONIQ` says something that cannot be.
    """
    if not _made:
        with _lock:
            if not _made:
                _made.append(_make())
        start()
    return _made[0]


def open_block(alias: str) -> object | None:
    """Give Django's connection if an `atomic()` block is open on it in this thread."""
    connection = connections[alias]
    return connection if connection.in_atomic_block else None


def holds_jobs(connection: Any) -> bool:
    """Tell whether a connection of Django's is the one to the database with the jobs."""
    home = client()._app.home
    alias = home.alias if isinstance(home, DjangoHome) else None
    return bool(connection.alias == alias and connection.vendor == "postgresql")


def schema() -> str:
    """Name the schema of the tables, also where SONIQ says something that cannot be."""
    try:
        return client().settings.schema
    except ImproperlyConfigured:
        return "soniq"


def _make() -> DjangoSoniq:
    chosen = config.read()
    try:
        app = Application(None, None, None, chosen.retry_policy, chosen.settings)
        if chosen.alias is not None:
            app.home = DjangoHome(app.settings, chosen.alias)
            if chosen.join_atomic:
                app.ambient = lambda: _joined(app.home)
                app.ambient_async = lambda: _tested(app.home)
        made = DjangoSoniq._of(app)
        hygiene.install(made)
        install(chosen.plugins, made)
    except (SettingsError, UsageError) as error:
        raise ImproperlyConfigured(f"SONIQ: {error}") from error
    connection_created.connect(_let_go, dispatch_uid="soniq")
    return made


def _joined(home: object) -> object | None:
    alias = home.alias if isinstance(home, DjangoHome) else None
    return None if alias is None else open_block(alias)


def _tested(home: object) -> object | None:
    """Give Django's connection while tests run: an async one has its block in another thread.

    Only there it can be looked at, which would be a hop to that thread for every enqueue. Django
    itself opens no block around async code but a `TestCase`'s.
    """
    if not hasattr(sys.modules.get("django.core.mail"), "outbox") or on_trio():
        return None
    alias = home.alias if isinstance(home, DjangoHome) else None
    return None if alias is None else connections[alias]


def _let_go(connection: Any, **kwargs: Any) -> None:
    """Close our pools before a database of tests is made or dropped, and look where it is anew.

    That is what Django opens a connection to no database for; it drops none that is in use.
    """
    if connection.alias != NO_DB_ALIAS:
        return
    for client in _made:
        if (opened := client.sync.__dict__.pop("_opened", None)) is not None:
            opened.close()
        if (opened := client.__dict__.pop("_opened", None)) is not None:
            opened.leave()
