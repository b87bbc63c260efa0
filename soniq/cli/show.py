"""How answers look: tables and colours for people, tabs and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

COLOURS = {
    "scheduled": "blue",
    "queued": "cyan",
    "processing": "yellow",
    "done": "green",
    "cancelled": "bright_black",
    "dead_letter": "red",
}

# What a cell may hold would else move the cursor, colour the terminal or forge a column.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS |= {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r"}


def at_terminal() -> bool:
    """Whether a person reads our answers."""
    return sys.stdout.isatty()


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str | None = None
) -> None:
    """Write rows under their headings: aligned at a terminal, tabs between them in a pipe.

    `empty` is what a person reads in place of a table without rows.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    if not at_terminal():
        for row in [list(head), *cells]:
            click.echo("\t".join(row))
        return
    if empty is not None and not rows:
        click.echo(empty)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    click.echo(click.style(_padded(head, widths).rstrip(), dim=True))
    for row in cells:
        click.echo(_padded(row, widths).rstrip())


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Write names and values below one another; what is None or empty is left out."""
    kept = [(name, clean(value)) for name, value in pairs if value not in {None, ""}]
    width = max(len(name) for name, _ in kept)
    for name, value in kept:
        click.echo(f"{click.style(f'{name:<{width}}', dim=True)}  {_coloured(value, value)}")


def as_json(value: object) -> None:
    """Write one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def compact(value: object, longest: int | None = None) -> str:
    """Write a value as JSON in one line, shortened to so many characters at a terminal."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if longest is not None and at_terminal() and len(text) > longest:
        return text[: longest - 1] + "…"
    return text


def clean(value: object) -> str:
    """Write a cell: without control characters, `-` for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    return str(value).translate(_CONTROLS)


def moment(value: datetime) -> str:
    """Write a moment: how long ago at a terminal, ISO 8601 in UTC in a pipe."""
    if not at_terminal():
        return value.astimezone(UTC).isoformat()
    away = (datetime.now(UTC) - value).total_seconds()
    return f"{duration(away)} ago" if away >= 0 else f"in {duration(-away)}"


def exact(value: datetime | None) -> str | None:
    """Write a moment in full, and at a terminal how long ago that is."""
    if value is None:
        return None
    full = value.astimezone(UTC).isoformat(timespec="milliseconds")
    return f"{full} ({moment(value)})" if at_terminal() else full


def duration(seconds: float | None) -> str:
    """Write seconds in the largest unit of which there are two, to the nearest one."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """Write a number and its noun, in the plural where it must be."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [(cell, f"{cell:<{width}}") for cell, width in zip(row, widths, strict=True)]
    return "  ".join(_coloured(cell, shown) for cell, shown in padded)


def _coloured(word: str, shown: str) -> str:
    return click.style(shown, fg=COLOURS[word]) if word in COLOURS else shown


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
