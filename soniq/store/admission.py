"""Letting jobs into queues that have a `max_depth`, before they are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias, TypeVar

from ..errors import QueueFull
from ..job.record import NewJob
from ..policy.bounds import OWN, Bounds
from ..steps import Atomic, Query, Steps, Where

R = TypeVar("R")

Store: TypeAlias = "Callable[[Sequence[NewJob], Iterable[NewJob]], Steps[R]]"
"""Stores jobs: some, and the others."""

BOUNDED = "SELECT name, max_depth FROM {soniq}.queues WHERE max_depth IS NOT NULL"

# A row comes back only to whoever is not let in.
ADMIT = """
    SELECT refused FROM {soniq}.admit(
        CAST(%(queue)s AS text), CAST(%(number)s AS integer)) AS a(refused)
    WHERE refused IS NOT NULL"""


class Pile:
    """Jobs to store, the later ones made as they are wanted; kept once all were asked for.

    Args:
        first: Some of them.
        more: The others, placed as some of the first.
    """

    def __init__(self, first: Sequence[NewJob], more: Iterable[NewJob] = ()) -> None:
        self.first = first
        self.more: Iterable[NewJob] = more
        self.queues: Collection[str] = {job.placement.queue for job in first}

    def all(self, most: int | None = None) -> Sequence[NewJob]:
        """Make them all, or `most` of the later ones."""
        if self.more:
            self.first, self.more = [*self.first, *islice(self.more, most)], ()
        return self.first


def stored(
    pile: Pile,
    bounds: Bounds,
    store: Store[R],
    *,
    own: bool,
) -> Steps[R]:
    """Store jobs if their queues have room for all of them.

    Args:
        pile: The jobs.
        bounds: Remembers which queues need to be asked.
        store: What stores them.
        own: Whether this runs on a connection of the client's own.

    Raises:
        QueueFull: A queue has no room; nothing was written.
    """
    place = OWN if own else (yield from Where())
    depths = yield from _depths(place, bounds)
    bounded = {queue: depths[queue] for queue in pile.queues if queue in depths}
    if not bounded:
        return (yield from store(pile.first, pile.more))
    jobs = pile.all(max(bounded.values()) if len(pile.queues) == 1 else None)
    counts = Counter(job.placement.queue for job in jobs)
    return (yield from Atomic(_admitted(counts, bounded, store, jobs)))


def _depths(place: Hashable, bounds: Bounds) -> Steps[Mapping[str, int]]:
    known = bounds.at(place)
    if known is None:
        began = bounds.clock()
        known = dict((yield from Query(BOUNDED, decode=lambda row: (str(row[0]), int(row[1])))))
        bounds.learn(place, known, began)
    return known


def _admitted(
    counts: Mapping[str, int],
    bounded: Mapping[str, int],
    store: Store[R],
    jobs: Sequence[NewJob],
) -> Steps[R]:
    # In one order, so that two who want the same queues do not wait for each other.
    for queue in sorted(bounded):
        params = {"queue": queue, "number": counts[queue]}
        for rule in (yield from Query(ADMIT, params, lambda row: str(row[0]))):
            raise _full(queue, counts[queue], rule)
    return (yield from store(jobs, ()))


def _full(queue: str, number: int, rule: str) -> QueueFull:
    what = "1 job" if number == 1 else f"{number:,} jobs"
    if rule == "never":
        return QueueFull(
            f"Queue {queue!r} can never take {what} at once: that is more than its max_depth. "
            "Enqueue fewer at a time.",
            queue=queue,
        )
    return QueueFull(
        f"Queue {queue!r} is full: {what} more would be beyond its max_depth. Try again later, or "
        "run more workers.",
        queue=queue,
        may_wait=rule == "wait",
    )
