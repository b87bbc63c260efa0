"""Figures, what they should reach, and the table of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median


@dataclass(frozen=True)
class Goal:
    """What a figure should reach.

    Attributes:
        issue: The letter of the issue that asks for it.
        bound: The least ratio, or the most of the figure itself.
        of: `ratio` (at least) or `ours` (at most).
    """

    issue: str
    bound: float
    of: str = "ratio"


def ratio(**bounds: float) -> tuple[Goal, ...]:
    """Ask for at least this share of the ceiling, by issue: `ratio(A=0.4, B=0.7)`."""
    return tuple(Goal(issue, bound) for issue, bound in bounds.items())


def most(**bounds: float) -> tuple[Goal, ...]:
    """Ask for at most this figure, by issue."""
    return tuple(Goal(issue, bound, "ours") for issue, bound in bounds.items())


@dataclass
class Row:
    """One figure.

    Attributes:
        name: What was measured.
        unit: `jobs/s`, `rows/s`: more is better. `ms`, `us`, `%`, `MB` and counts: less is.
        ours: Soniq's figure; the median of the repeats.
        ceiling: The bare loop's in the same run, if there is one.
        goals: What it should reach.
        ratio: Ours as a share of the ceiling, above 1 is better; the median of the pairs.
        repeats: All pairs, for who doubts the medians.
    """

    name: str
    unit: str
    ours: float
    ceiling: float | None = None
    goals: tuple[Goal, ...] = ()
    ratio: float | None = None
    repeats: list[tuple[float, float]] = field(default_factory=list)

    def verdict(self) -> str:
        """Say of each goal whether it is reached, and else how far away it is."""
        return "; ".join(self._judge(goal) for goal in self.goals) or "-"

    def _judge(self, goal: Goal) -> str:
        if goal.of == "ratio":
            got = self.ratio or 0.0
            distance = f"{got - goal.bound:+.2f}"
            return f"{goal.issue} >= {goal.bound:g} {'pass' if got >= goal.bound else distance}"
        met = self.ours <= goal.bound
        distance = f"x{self.ours / goal.bound:.2f}"
        return f"{goal.issue} <= {goal.bound:g} {'pass' if met else distance}"


def interleave(
    repeats: int, ours: Callable[[], float], ceiling: Callable[[], float]
) -> list[tuple[float, float]]:
    """Measure in turns, each going first every other time, so that noise falls on both."""
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            theirs = ceiling()
            pairs.append((ours(), theirs))
        else:
            mine = ours()
            pairs.append((mine, ceiling()))
    return pairs


def paired(
    name: str, unit: str, pairs: Sequence[tuple[float, float]], goals: tuple[Goal, ...] = ()
) -> Row:
    """Make the row of interleaved repeats."""
    rates = unit.endswith("/s")
    ratios = [a / b if rates else b / a for a, b in pairs if a and b]
    return Row(
        name,
        unit,
        median(a for a, _ in pairs),
        median(b for _, b in pairs),
        goals,
        median(ratios) if ratios else None,
        list(pairs),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Read the value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


HEAD = ("figure", "ours", "ceiling", "ratio", "goal (its issue), and pass or the distance")


def table(rows: Sequence[Row]) -> str:
    """Write the rows for people."""
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))


def as_json(rows: Sequence[Row]) -> str:
    """Write the rows for machines."""
    return json.dumps([asdict(row) | {"verdict": row.verdict()} for row in rows], indent=1)


def _cells(row: Row) -> tuple[str, ...]:
    ceiling = "-" if row.ceiling is None else shown(row.ceiling, row.unit)
    share = "-" if row.ratio is None else f"{row.ratio:.2f}"
    return row.name, shown(row.ours, row.unit), ceiling, share, row.verdict()


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, last = zip(cells, widths, strict=True)
    middle = "  ".join(cell.rjust(width) for cell, width in numbers)
    return f"{first[0].ljust(first[1])}  {middle}  {last[0]}".rstrip()


def shown(value: float, unit: str) -> str:
    """Write a figure with as many digits as mean something."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()
