"""What `manage.py check` says about Soniq in a project."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.db import connections

from ...errors import DatabaseError, SchemaMissing, SchemaTooNew
from . import config


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """E001: `settings.SONIQ` says something that cannot be."""
    try:
        config.read()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="soniq.E001")]
    return []


def check_project(**kwargs: Any) -> list[CheckMessage]:
    """E002: the database is not PostgreSQL. E003: no such module. W001: the order of apps."""
    try:
        chosen = config.read()
    except ImproperlyConfigured:
        return []
    return [*_vendor(chosen), *_modules(chosen), *_order()]


def check_schema(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """W002: the tables are missing or older; E004: they are newer. `check --database ALIAS`."""
    try:
        alias = config.read().alias
    except ImproperlyConfigured:
        return []
    if alias is None or alias not in (databases or ()) or not _is_postgresql(alias):
        return []
    if sys.argv[1:2] == ["migrate"]:
        return []  # it asks first, and then makes what is missing
    from .clients import client

    # On Django's connection: a pool of ours must not be opened before tests change the database.
    looking = client().sync.within(connections[alias])
    try:
        looking.ensure_initialized()
    except SchemaTooNew as error:
        return [Error(str(error), id="soniq.E004")]
    except SchemaMissing as error:
        return [Warning(str(error), hint="Run `manage.py migrate soniq`.", id="soniq.W002")]
    except DatabaseError:
        return []  # Django says so itself
    return []


def is_there(module: str) -> bool:
    """Tell whether a module can be found, importing no more than its packages."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _vendor(chosen: config.Config) -> Iterator[CheckMessage]:
    if chosen.alias is not None and not _is_postgresql(chosen.alias):
        vendor = connections[chosen.alias].vendor
        yield Error(
            f"DATABASES[{chosen.alias!r}] is {vendor}, and Soniq needs PostgreSQL.",
            hint="Name an entry that is in SONIQ['DATABASE'], or give a SONIQ['DATABASE_URL'].",
            id="soniq.E002",
        )


def _modules(chosen: config.Config) -> Iterator[CheckMessage]:
    for name in chosen.task_modules:
        if not is_there(name):
            yield Error(
                f"SONIQ['TASK_MODULES'] names {name!r}, and there is no such module.",
                hint="Name it as `import` would, or take it out.",
                id="soniq.E003",
            )


def _order() -> Iterator[CheckMessage]:
    owner = get_commands().get("soniq")
    if owner != "soniq.integrations.django":
        yield Warning(
            f"`manage.py soniq` is a command of {owner}, which comes first in INSTALLED_APPS.",
            hint=f"Put 'soniq.integrations.django' before {owner!r}.",
            id="soniq.W001",
        )


def _is_postgresql(alias: str) -> bool:
    return bool(connections[alias].vendor == "postgresql")
