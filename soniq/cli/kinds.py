"""Kinds of values that options take."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

# Generic from click 8.4 on, and not before.
if TYPE_CHECKING:
    _Kind = click.ParamType[Any]
else:
    _Kind = click.ParamType

NONE = "none"

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Duration(_Kind):
    """Seconds, or a number with its unit: `90`, `90s`, `5m`, `2h`, `1d`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value.strip())
        if match is None:
            self.fail(f"{value!r} is no duration; 90, 90s, 5m, 2h and 1d are.", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Moment(_Kind):
    """An ISO 8601 moment; without a time zone it is refused where it is used."""

    name = "moment"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read a moment."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no moment; 2026-01-31T12:00:00+01:00 is.", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no time zone; add Z, or an offset: +01:00.", param, ctx)
        return moment


class OrNone(_Kind):
    """A value of another kind, or the word `none`.

    Args:
        kind: The other kind; text unless said.
    """

    def __init__(self, kind: click.ParamType[Any] | None = None) -> None:
        self._kind = click.STRING if kind is None else kind
        self.name = f"{self._kind.name}|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one; `none` stays a word, for None is an option that was not given."""
        if value == NONE:
            return NONE
        return self._kind.convert(value, param, ctx)


class Source(click.File):
    """A file to read, or `-` for standard input."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Open it."""
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed; name a file, or pipe the lines in.", param, ctx)
        return super().convert(value, param, ctx)


DURATION = Duration()
MOMENT = Moment()
