"""Accounts for people: one line for each scenario, and what does not balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .account import Account

COLUMNS = (
    ("scenario", 11),
    ("acknowledged", 12),
    ("unknown, stored", 15),
    ("done", 7),
    ("dead", 5),
    ("runs", 7),
    ("run again, why", 24),
    ("attempts spent", 24),
    ("faults", 24),
    ("seconds", 7),
    ("balance", 8),
)
SHOWN = 20


def head() -> str:
    """Write the head of the table."""
    names = "  ".join(f"{name:<{width}}" for name, width in COLUMNS)
    return f"{names}\n{'  '.join('-' * width for _, width in COLUMNS)}"


def line(name: str, account: Account) -> str:
    """Write one scenario's account."""
    cells = (
        name,
        f"{account.acknowledged:,}",
        f"{account.unknown:,}, {account.unknown_stored:,}",
        f"{account.states['done']:,}",
        f"{account.states['dead_letter']:,}",
        f"{account.runs:,}",
        _counted(account.repeated),
        _counted(account.spent),
        _counted(account.faults),
        f"{account.seconds:.1f}",
        "yes" if account.balanced else "NO",
    )
    widths = (width for _, width in COLUMNS)
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def problems(account: Account) -> Iterable[str]:
    """Say what does not balance."""
    yield from (f"    {problem}" for problem in account.problems[:SHOWN])
    if (more := len(account.problems) - SHOWN) > 0:
        yield f"    and {more} more"


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counter.most_common()) or "-"
