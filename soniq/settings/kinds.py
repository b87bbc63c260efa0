"""What a setting's value may be, and how it is read from an argument, a text or TOML."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, field
from datetime import timedelta
from typing import Any

from ..errors import SettingsError, shown

Parse = Callable[[object], Any]

# What PostgreSQL can reckon with, where a setting has no bound of its own.
MOST_SECONDS = 3_155_760_000  # 100 years
MOST = 2**31 - 1


def seconds(value: object) -> float:
    """Read seconds: a number, a text of one, a timedelta."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("seconds, or a timedelta")
    return float(value)


def whole(value: object) -> int:
    """Read a whole number; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a whole number")
    return int(value)


def flag(value: object) -> bool:
    """Read yes or no, in the words people use for them."""
    if isinstance(value, bool):
        return value
    match str(value).strip().lower() if isinstance(value, int | str) else None:
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("yes or no")


def text(value: object) -> str:
    """Read a text that PostgreSQL can keep."""
    if not isinstance(value, str) or not _can_be_kept(value):
        raise ValueError("text without NUL or halves of surrogate pairs")
    return value


def names(value: object) -> tuple[str, ...]:
    """Read names: a list, or one text with commas between them."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(map(_is_name, value)):
        raise ValueError("names of 1 to 128 characters, or one text with commas between them")
    return tuple(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 128 and _can_be_kept(value)


def _can_be_kept(value: str) -> bool:
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def schema_name(value: object) -> str:
    """Read the name of a schema that needs no quotes."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", value):
        raise ValueError("1 to 40 letters, digits and underscores, not starting with a digit")
    if value.lower().startswith("pg_"):
        raise ValueError("a name that does not start with pg_, which PostgreSQL keeps for itself")
    if value == "information_schema":
        raise ValueError("another name, for that schema is PostgreSQL's own")
    return value


def pattern(value: object) -> str:
    """Read a regular expression, as its text."""
    given = text(value)
    try:
        re.compile(given)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return given


def one_of(*allowed: str) -> Parse:
    """Make a reader that takes one of these texts."""

    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return str(value)

    return parse


def setting(
    default: object,
    doc: str,
    parse: Parse,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    none: bool = False,
) -> Any:
    """Define a setting: its default, what it means, how it is read, and its range."""
    meta = {"doc": doc, "parse": parse, "min": at_least, "max": at_most, "none": none}
    return field(default=default, metadata=meta)


def read(defined: Field[Any], value: object, source: str) -> object:
    """Make a setting's value of what was given, or say what it must be.

    Args:
        defined: The setting's field in `Settings`.
        value: What was given.
        source: Where the value came from, as the message names it: `concurrency=`.

    Raises:
        SettingsError: A value of the wrong type or out of range.
    """
    meta = defined.metadata
    if meta["none"] and isinstance(value, str) and value.strip().lower() in {"none", "never"}:
        return None
    try:
        parsed = meta["parse"](value)
    except (ValueError, OverflowError) as error:
        wanted = str(error) if not isinstance(value, str) or "could not" not in str(error) else ""
        wanted = "a number" if not wanted or "invalid literal" in wanted else wanted
        told = "***" if defined.name.endswith("_url") else shown(value)
        raise SettingsError(f"{source}: {told} is not valid; it must be {wanted}.") from None
    _check_range(parsed, meta, source)
    return parsed


def _check_range(value: object, meta: Mapping[str, Any], source: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = meta["min"], meta["max"]
    most = high or (MOST_SECONDS if isinstance(value, float) else MOST)
    if not low <= value <= most:  # NaN is neither
        near = f"at most {most}" if value > most else f"at least {low}"
        span = near if high is None else f"between {low} and {high}"
        raise SettingsError(f"{source}: {shown(value)} is out of range; it must be {span}.")
