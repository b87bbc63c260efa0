"""Every tunable: its unit, its default, its range, and where its value comes from.

An argument wins over the environment (`SONIQ_` and the name in capitals), that over `[tool.soniq]`
in the `pyproject.toml` of the working folder, that over the default. Each setting is defined once,
as a field of `Settings`; parsing, ranges, messages and the reference in `docs/` follow from it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .errors import SettingsError, UnknownOption

Parse = Callable[[object], Any]


def _seconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("seconds, or a timedelta")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a whole number")
    return int(value)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    match str(value).strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("yes or no")


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("text without NUL")
    return value


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("names, or one text with commas between them")
    return tuple(value)


def _schema(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", value):
        raise ValueError("1 to 40 letters, digits and underscores, not starting with a digit")
    if value.lower().startswith("pg_"):
        raise ValueError("a name that does not start with pg_, which PostgreSQL keeps for itself")
    return value


def _pattern(value: object) -> str:
    text = _text(value)
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return text


def _one_of(*allowed: str) -> Parse:
    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return str(value)

    return parse


def _setting(
    default: object,
    doc: str,
    parse: Parse,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    none: bool = False,
) -> Any:
    meta = {"doc": doc, "parse": parse, "min": at_least, "max": at_most, "none": none}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values one application runs with; made by `load`, never changed."""

    database_url: str | None = _setting(
        None, "A libpq URL or conninfo. None: the embedded PostgreSQL.", _text, none=True
    )
    schema: str = _setting("soniq", "The schema that holds every table.", _schema)
    environment: str = _setting(
        "development", "`production` refuses the embedded PostgreSQL.", _text
    )
    queues: tuple[str, ...] = _setting(
        (), "Queues a worker serves, comma-separated; empty: all of them.", _names
    )
    concurrency: int = _setting(
        10, "Jobs a worker runs at once.", _whole, at_least=1, at_most=10_000
    )
    threads: int | None = _setting(
        None,
        "Threads for `def` jobs; None: as many as `concurrency`.",
        _whole,
        at_least=1,
        at_most=10_000,
        none=True,
    )
    prefetch: int = _setting(
        500,
        "Most jobs claimed ahead of free slots; the worker takes fewer unless jobs are quick.",
        _whole,
        at_least=0,
        at_most=10_000,
    )
    poll_interval: float = _setting(
        5.0, "Seconds between looks at the queues when nothing notifies.", _seconds, at_least=0.01
    )
    heartbeat_interval: float = _setting(
        5.0,
        "Seconds between a worker's signs of life; at most a third of the timeout is used.",
        _seconds,
        at_least=0.05,
    )
    heartbeat_timeout: float = _setting(
        30.0,
        "Seconds of silence after which a worker counts as dead and its jobs go to others.",
        _seconds,
        at_least=0.2,
    )
    job_timeout: float | None = _setting(
        300.0,
        "Seconds an attempt may take unless its task says otherwise; None or 0: no limit.",
        _seconds,
        at_least=0,
        none=True,
    )
    shutdown_timeout: float = _setting(
        30.0, "Seconds running jobs get to finish after SIGTERM.", _seconds, at_least=0
    )
    sync_grace: float = _setting(
        30.0,
        "Seconds threads get to end after that, their token set.",
        _seconds,
        at_least=0,
    )
    result_ttl: float = _setting(
        86_400.0, "Seconds finished jobs are kept, at least.", _seconds, at_least=0
    )
    dead_letter_ttl: float | None = _setting(
        None, "Seconds dead letters are kept; None: for ever.", _seconds, at_least=0, none=True
    )
    max_retries: int = _setting(
        3, "Retries after the first attempt.", _whole, at_least=0, at_most=10_000
    )
    snooze_max: int = _setting(
        1000, "Times one job may snooze before it becomes a dead letter.", _whole, at_least=0
    )
    max_payload_bytes: int = _setting(
        1_048_576, "Largest JSON of arguments or of a result, in bytes.", _whole, at_least=2
    )
    pool_min_size: int = _setting(1, "Connections a pool keeps open.", _whole, at_least=0)
    pool_max_size: int = _setting(10, "Connections a pool opens at most.", _whole, at_least=1)
    pool_timeout: float = _setting(
        30.0, "Seconds to wait for a free connection.", _seconds, at_least=0.01
    )
    connect_timeout: int = _setting(
        10, "Seconds to wait for the server to accept a connection.", _whole, at_least=1
    )
    statement_timeout: float = _setting(
        30.0,
        "Seconds a worker waits for any one answer of the database before it reconnects.",
        _seconds,
        at_least=0.1,
    )
    notify: str = _setting(
        "auto",
        "`auto` wakes workers only while one of them is idle; `always`; `off`: they poll.",
        _one_of("auto", "always", "off"),
    )
    pgbouncer: bool = _setting(
        False,
        "A transaction-mode pooler is in between: no prepared statements. Found out by itself "
        "where the pooler shows.",
        _flag,
    )
    listen_url: str | None = _setting(
        None,
        "A direct address for LISTEN when `database_url` leads through a pooler.",
        _text,
        none=True,
    )
    enqueue_validation: str = _setting(
        "strict",
        "What to do about a task name or arguments this process cannot check: `strict` refuses, "
        "`warn` logs, `none` enqueues.",
        _one_of("strict", "warn", "none"),
    )
    task_name_pattern: str | None = _setting(
        None, "A regular expression every task name must match in full.", _pattern, none=True
    )
    log_level: str = _setting(
        "INFO",
        "Level of the `soniq` logger in the command line.",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    )
    log_format: str = _setting(
        "text", "`text` for people, `json` for machines.", _one_of("text", "json")
    )

    def with_(self, **changes: object) -> Settings:
        """Copy with some values changed; None leaves a value as it is.

        Raises:
            UnknownOption: No setting has that name.
            SettingsError: A value of the wrong type or out of range.
        """
        return _agree(replace(self, **_arguments(changes)))


_FIELDS = {setting.name: setting for setting in fields(Settings)}


def load(
    arguments: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Gather the settings from arguments, environment, `pyproject.toml` and defaults.

    Args:
        arguments: Values given in code; None as a value means "not given".
        environ: The environment to read; the process's by default.
        folder: Where to look for `pyproject.toml`; the working folder by default.

    Raises:
        UnknownOption: An argument that is no setting.
        SettingsError: A value of the wrong type or out of range, wherever it came from.
    """
    given = _arguments(arguments or {})
    values = _from_file(folder or Path.cwd())
    values |= _from_environment(os.environ if environ is None else environ)
    values |= given
    return _agree(Settings(**values))


def reference() -> list[tuple[str, str, str]]:
    """List (name, default, meaning) of every setting, for documents and `--help`."""
    return [(s.name, repr(s.default), s.metadata["doc"]) for s in _FIELDS.values()]


def _unknown(name: str) -> str:
    near = get_close_matches(name, _FIELDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(_FIELDS))}."
    return f"There is no setting named {name!r}.{hint}"


def _arguments(arguments: Mapping[str, object]) -> dict[str, Any]:
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in _FIELDS:
            raise UnknownOption(_unknown(name))
    return _parsed(given, lambda name: f"{name}=")


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    given = {name: environ[key] for name in _FIELDS if environ.get(key := f"SONIQ_{name.upper()}")}
    return _parsed(given, lambda name: f"SONIQ_{name.upper()}")


def _from_file(folder: Path) -> dict[str, Any]:
    section = project_section(folder)
    given = {name: value for name, value in section.items() if name in _FIELDS}
    unknown = [name for name in section if name not in _FIELDS and name != "app"]
    if unknown:
        raise SettingsError(f"[tool.soniq] in {folder / 'pyproject.toml'}: {_unknown(unknown[0])}")
    return _parsed(given, lambda name: f"[tool.soniq] {name}")


def project_section(folder: Path) -> dict[str, Any]:
    """Read `[tool.soniq]` of the folder's `pyproject.toml`; empty where there is none."""
    path = folder / "pyproject.toml"
    try:
        with path.open("rb") as file:
            section = tomllib.load(file).get("tool", {}).get("soniq", {})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    return section if isinstance(section, dict) else {}


def _parsed(given: Mapping[str, object], source: Callable[[str], str]) -> dict[str, Any]:
    return {name: _parse(name, value, source(name)) for name, value in given.items()}


def _parse(name: str, value: object, source: str) -> object:
    meta = _FIELDS[name].metadata
    if meta["none"] and isinstance(value, str) and value.strip().lower() in {"none", "never"}:
        return None
    try:
        parsed = meta["parse"](value)
    except (ValueError, OverflowError) as error:
        wanted = str(error) if not isinstance(value, str) or "could not" not in str(error) else ""
        wanted = "a number" if not wanted or "invalid literal" in wanted else wanted
        shown = "***" if name.endswith("_url") else repr(value)
        raise SettingsError(f"{source}: {shown} is not valid; it must be {wanted}.") from None
    _check_range(parsed, meta, source)
    return parsed


def _check_range(value: object, meta: Mapping[str, Any], source: str) -> None:
    if not isinstance(value, int | float):
        return
    low, high = meta["min"], meta["max"]
    above = low is None or value >= low
    below = high is None or value <= high
    if not (above and below and value == value and abs(value) != float("inf")):  # noqa: PLR0124
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SettingsError(f"{source}: {value} is out of range; it must be {span}.")


def _agree(settings: Settings) -> Settings:
    if settings.pool_min_size > settings.pool_max_size:
        raise SettingsError(
            f"pool_min_size ({settings.pool_min_size}) is larger than pool_max_size "
            f"({settings.pool_max_size}). Raise the one or lower the other."
        )
    # A worker must be able to miss two beats before others take its jobs.
    third = settings.heartbeat_timeout / 3
    return replace(settings, heartbeat_interval=min(settings.heartbeat_interval, third))
