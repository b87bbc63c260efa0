"""How many jobs to take from which queue, and how many to take ahead."""

from __future__ import annotations

from collections.abc import Sequence


def shares(wanted: int, lanes: Sequence[str], turn: int) -> dict[str, int]:
    """Split a claim over the queues that have work, as evenly as whole jobs allow.

    Args:
        wanted: Jobs to claim in all.
        lanes: The queues, in a stable order.
        turn: Where the round starts; add one per claim, so that remainders go round too.

    Returns:
        A number for each queue that is asked at all, in the order of the round.
    """
    if not lanes or wanted <= 0:
        return {}
    start = turn % len(lanes)
    order = [*lanes[start:], *lanes[:start]]
    each, extra = divmod(wanted, len(order))
    split = {lane: each + (place < extra) for place, lane in enumerate(order)}
    return {lane: number for lane, number in split.items() if number}


def ahead(finished_per_second: float, *, cap: int, horizon_seconds: float = 0.1) -> int:
    """Choose how many jobs to hold beyond the free slots.

    As many as will be finished within the horizon at the present pace: quick jobs are claimed by
    the hundred, and a slow job never sits behind another while a second worker is free.

    Args:
        finished_per_second: The present pace.
        cap: Most jobs held ahead.
        horizon_seconds: How far to look.
    """
    return max(0, min(cap, int(finished_per_second * horizon_seconds)))
