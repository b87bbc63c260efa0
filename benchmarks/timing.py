"""Two ways of doing the same in this process, by the clock and by the processor's time.

The processor's time is what a library costs; the clock's also holds the commits of the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .report import Goal, Row, interleave, paired


def compare(
    name: str,
    turns: int,
    ours: Callable[[], object],
    bare: Callable[[], object],
    count: int,
    goals: tuple[Goal, ...],
    unit: str = "jobs/s",
) -> list[Row]:
    """Measure both in turns, after a first one each that prepares statements and opens pools.

    Args:
        name: What is done.
        turns: How often.
        ours: Does it `count` times by Soniq.
        bare: Does it `count` times by hand.
        count: How many jobs one call of either makes.
        goals: For the rate.
        unit: Of the rate.
    """
    spent: dict[str, list[float]] = {"ours": [], "bare": []}

    def measure(side: str, do: Callable[[], object]) -> float:
        began, cpu = time.perf_counter(), time.process_time()
        do()
        spent[side].append((time.process_time() - cpu) / count * 1e6)
        return count / (time.perf_counter() - began)

    ours()
    bare()
    pairs = interleave(turns, lambda: measure("ours", ours), lambda: measure("bare", bare))
    cpu = list(zip(spent["ours"], spent["bare"], strict=True))
    return [paired(name, unit, pairs, goals), paired("  client CPU each", "us", cpu)]
