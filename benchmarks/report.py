"""Figures, what they should reach, and the table of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Literal

Kind = Literal["share", "least", "most", "times"]


@dataclass(frozen=True)
class Goal:
    """What a figure should reach.

    Attributes:
        bound: A number.
        kind: What it bounds; see `share`, `least`, `most` and `times`.
    """

    bound: float
    kind: Kind

    def reached(self, row: Row) -> bool:
        """Whether the row's figure is there."""
        got = self._got(row)
        least = self.kind in {"share", "least"}
        return got is not None and (got >= self.bound if least else got <= self.bound)

    def judge(self, row: Row) -> str:
        """Write the goal, and `pass` or how far away it is."""
        wanted = _WANTED[self.kind].format(self.bound)
        got = self._got(row)
        if got is None:
            return f"{wanted}: not measured"
        if self.reached(row):
            return f"{wanted}: pass"
        distance = (
            f"{got - self.bound:+.2f}" if self.kind == "share" else f"x{got / self.bound:.2f}"
        )
        return f"{wanted}: {distance}"

    def _got(self, row: Row) -> float | None:
        match self.kind:
            case "share":
                return row.ratio
            case "times":
                return row.ours / row.ceiling if row.ceiling else None
            case "least" | "most":
                return row.ours


_WANTED: dict[Kind, str] = {
    "share": "share >= {:g}",
    "least": ">= {:,g}",
    "most": "<= {:,g}",
    "times": "<= {:g} x ceiling",
}


def share(bound: float) -> Goal:
    """Ask for at least this share of the ceiling."""
    return Goal(bound, "share")


def least(bound: float) -> Goal:
    """Ask for at least this figure."""
    return Goal(bound, "least")


def most(bound: float) -> Goal:
    """Ask for at most this figure."""
    return Goal(bound, "most")


def times(bound: float) -> Goal:
    """Ask for at most so many times the figure beside it."""
    return Goal(bound, "times")


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
        return "; ".join(goal.judge(self) for goal in self.goals) or "-"

    def reached(self) -> bool:
        """Whether every goal is."""
        return all(goal.reached(self) for goal in self.goals)


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


HEAD = ("figure", "ours", "ceiling", "share", "goal: pass or the distance")
# Rows are printed as they are measured, so widths are not known from the longest.
WIDTHS = (60, 15, 15, 6, 26)


def head() -> str:
    """Write the head of the table."""
    return f"{_line(HEAD)}\n{_line(tuple('-' * width for width in WIDTHS))}"


def lines(rows: Sequence[Row]) -> str:
    """Write rows for people."""
    return "\n".join(_line(_cells(row)) for row in rows)


def summary(rows: Sequence[Row]) -> str:
    """Say how many rows reach their goals, and which do not."""
    with_goals = [row for row in rows if row.goals]
    missed = [row.name.strip() for row in with_goals if not row.reached()]
    said = f"{len(with_goals) - len(missed)} of {len(with_goals)} rows with a goal reach it"
    return f"{said}; not yet: {', '.join(missed)}" if missed else said


def as_json(rows: Sequence[Row]) -> str:
    """Write the rows for machines."""
    more = ({"verdict": row.verdict(), "reached": row.reached()} for row in rows)
    return json.dumps([asdict(row) | told for row, told in zip(rows, more, strict=True)], indent=1)


def _cells(row: Row) -> tuple[str, ...]:
    ceiling = "-" if row.ceiling is None else shown(row.ceiling, row.unit)
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    return row.name, shown(row.ours, row.unit), ceiling, ratio, row.verdict()


def _line(cells: Sequence[str]) -> str:
    name, *numbers, last = zip(cells, WIDTHS, strict=True)
    middle = "  ".join(cell.rjust(width) for cell, width in numbers)
    return f"{name[0].ljust(name[1])}  {middle}  {last[0]}".rstrip()


def shown(value: float, unit: str) -> str:
    """Write a figure with as many digits as mean something."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()
