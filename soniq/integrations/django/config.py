"""What `settings.SONIQ` says, checked; and where the database of `settings.DATABASES` is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...errors import SettingsError, UsageError
from ...settings.table import FIELDS, read_all

OURS = ("DATABASE", "JOIN_ATOMIC", "AUTODISCOVER", "TASK_MODULES", "RETRY_POLICY", "PLUGINS")

# What the framework's own settings decide, and nothing else may.
_DJANGO = {"database": "DATABASE"}


@dataclass(frozen=True, slots=True)
class Config:
    """The project's choices.

    Attributes:
        alias: The entry of DATABASES that holds the jobs; None if DATABASE_URL names a database.
        join_atomic: Whether operations join an open `atomic()` of that database.
        autodiscover: Modules looked for in every installed app.
        task_modules: Further modules that declare tasks, by their full names.
        retry_policy: As `Soniq(retry_policy=)`.
        plugins: As `Soniq(plugins=)`.
        settings: Soniq's own settings, by their names.
    """

    alias: str | None
    join_atomic: bool
    autodiscover: tuple[str, ...]
    task_modules: tuple[str, ...]
    retry_policy: Any
    plugins: tuple[Any, ...]
    settings: Mapping[str, Any]


def read() -> Config:
    """Read `settings.SONIQ`.

    Raises:
        ImproperlyConfigured: It says something that cannot be; the message names the key.
    """
    from django.conf import settings

    given = getattr(settings, "SONIQ", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"SONIQ must be a dict, not {given!r}.")
    ours = {key: given[key] for key in OURS if key in given}
    rest = {key: value for key, value in given.items() if key not in OURS}
    values = _soniqs(rest)
    return Config(
        alias=_alias(ours, settings.DATABASES, has_url="database_url" in values),
        join_atomic=_flag(ours.get("JOIN_ATOMIC", True)),
        autodiscover=_names("AUTODISCOVER", ours.get("AUTODISCOVER", ("tasks", "jobs"))),
        task_modules=_names("TASK_MODULES", ours.get("TASK_MODULES", ())),
        retry_policy=_imported("RETRY_POLICY", ours.get("RETRY_POLICY")),
        plugins=tuple(_imported("PLUGINS", each) for each in ours.get("PLUGINS", ())),
        settings=values,
    )


def _soniqs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the keys that are Soniq's settings in capitals."""
    known = {name.upper(): name for name in FIELDS}
    for key in given:
        if key not in known:
            near = get_close_matches(str(key).upper(), [*known, *OURS], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join([*OURS, *known])}."
            raise ImproperlyConfigured(f"SONIQ has no key {key!r}. {hint}")
    values = {known[key]: value for key, value in given.items() if value is not None}
    try:
        return read_all(values, lambda name: f"SONIQ[{name.upper()!r}]")
    except (SettingsError, UsageError) as error:
        raise ImproperlyConfigured(str(error)) from None


def _alias(given: Mapping[str, Any], databases: Mapping[str, Any], *, has_url: bool) -> str | None:
    if has_url:
        if "DATABASE" in given:
            raise ImproperlyConfigured("Give SONIQ['DATABASE'] or SONIQ['DATABASE_URL'], not both.")
        return None
    alias = given.get("DATABASE", "default")
    if not isinstance(alias, str) or alias not in databases:
        raise ImproperlyConfigured(
            f"SONIQ['DATABASE'] is {alias!r}. Name one of DATABASES: {', '.join(databases)}."
        )
    return alias


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ImproperlyConfigured(f"SONIQ['JOIN_ATOMIC'] must be True or False, not {value!r}.")
    return value


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ImproperlyConfigured(f"SONIQ[{key!r}] must be a list of module names, not {value!r}.")
    return tuple(value)


def _imported(key: str, value: Any) -> Any:
    """Import what is named by a dotted path; anything else is taken as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = import_string(value)
    except ImportError as error:
        raise ImproperlyConfigured(f"SONIQ[{key!r}]: {error}") from error
    return found() if isinstance(found, type) else found
