"""How many jobs to take from which queue, in which turns they run, and how many to take ahead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

LEAST_PAUSE_SECONDS = 0.02
MOST_PAUSE_SECONDS = 1.0

# Queues that one claim asks: each costs a probe of the index, so a few jobs from each of a thousand
# cost three times what many from one do.
MOST_LANES = 32

# Shallow queues that are asked beside the others, and for how long after they last gave a job.
FEW_LANES = 8
SHALLOW_SECONDS = 1.0


def shares(wanted: int, lanes: Sequence[str]) -> dict[str, int]:
    """Split a claim over the queues whose turn it is, as evenly as whole jobs allow.

    Args:
        wanted: Jobs to claim in all.
        lanes: The queues that have work; the one whose turn it is comes first.

    Returns:
        A number for each queue that is asked at all, in the order of the round.
    """
    asked = lanes[: min(MOST_LANES, max(0, wanted))]
    each, extra = divmod(wanted, len(asked) or 1)
    return {lane: each + (place < extra) for place, lane in enumerate(asked)}


def after(lanes: Iterable[str], asked: Mapping[str, int], *, dry: Collection[str]) -> list[str]:
    """Order the queues for the next claim: those come last that were asked, and for most.

    Args:
        lanes: The queues, in the order of this round.
        asked: How many jobs this claim asked of which.
        dry: Those that have no more work.
    """
    return sorted((lane for lane in lanes if lane not in dry), key=lambda lane: asked.get(lane, 0))


def deal(jobs: Iterable[T], queue: Callable[[T], str]) -> list[T]:
    """Let the queues of jobs take turns; the jobs of one stay in their order.

    The first job stays the first, and so does the first of each queue before those of others: what
    comes later from another queue goes behind it, however often that happens.
    """
    dealt: dict[str, int] = {}

    def turn(job: T) -> int:
        dealt[name] = place = dealt.get(name := queue(job), 0) + 1
        return place

    return sorted(jobs, key=turn)


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


class Shallow:
    """Queues that lately gave jobs, and fewer than were asked of them: a deep one is beside them.

    A look finds their next job later than a claim that asks them at once.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def learn(self, asked: Mapping[str, int], gave: Mapping[str, int], now: float) -> None:
        """Take in how many jobs queues gave, of those asked of them at a moment in seconds."""
        for lane, number in gave.items():
            if number < asked[lane]:
                self._until[lane] = now + SHALLOW_SECONDS
            else:
                self._until.pop(lane, None)

    def few(self, now: float) -> tuple[str, ...]:
        """List them, if they are not too many to be asked each time."""
        self._until = {lane: until for lane, until in self._until.items() if now < until}
        return tuple(self._until) if len(self._until) <= FEW_LANES else ()


class Barren:
    """Queues whose work cannot be taken: asked less and less often while others have some.

    They are paused, or hold only tasks that the worker has not, all of which a claim walks over.
    """

    def __init__(self) -> None:
        self._rests: dict[str, tuple[float, float]] = {}  # for how long, until when

    def learn(self, asked: Iterable[str], gave: Mapping[str, int], now: float) -> None:
        """Take in which queues gave jobs, of those that were asked at a moment in seconds."""
        for lane in asked:
            if gave.get(lane):
                self._rests.pop(lane, None)
            else:
                before, _ = self._rests.get(lane, (LEAST_PAUSE_SECONDS / 2, now))
                pause = min(2 * before, MOST_PAUSE_SECONDS)
                self._rests[lane] = pause, now + pause

    def keep(self, lanes: Collection[str]) -> None:
        """Forget all but these, which have work."""
        for lane in self._rests.keys() - set(lanes):
            del self._rests[lane]

    def rests(self, lane: str, now: float) -> bool:
        """Tell whether a queue is not worth asking yet."""
        return now < self._rests.get(lane, (0.0, now))[1]
