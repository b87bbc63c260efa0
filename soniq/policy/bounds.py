"""Which queues may be full, so that an enqueue into another one is not asked to wait for an answer.

To ask the database costs as much as the enqueue itself. So a client remembers, for some seconds,
which queues have a `max_depth`: that is for how long one that was just said is not obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

# An enqueue in so many seconds is preceded by a look at the few rows of the queues table.
FRESH_SECONDS = 5.0
# Beyond so many databases all are forgotten, which costs one look for each.
MOST_PLACES = 100

OWN = "own"
"""The database of the client's own connections."""


class Bounds:
    """What one client remembers; its threads and tasks share it, without a lock.

    Args:
        clock: Seconds that only grow, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._known: dict[Hashable, tuple[float, Mapping[str, int]]] = {}

    def frees(self, queue: str) -> bool:
        """Tell whether a queue of the client's own database had no bound a moment ago."""
        known = self._known.get(OWN)
        return known is not None and self.clock() < known[0] and queue not in known[1]

    def at(self, place: Hashable) -> Mapping[str, int] | None:
        """Give the queues that have a `max_depth` in a database, and that; None is not known."""
        known = self._known.get(place)
        return known[1] if known is not None and self.clock() < known[0] else None

    def learn(self, place: Hashable, bounds: Mapping[str, int], began: float) -> None:
        """Remember what a database said, by the clock before it was asked."""
        if len(self._known) >= MOST_PLACES:
            self._known.clear()
        self._known[place] = (began + FRESH_SECONDS, bounds)

    def forget(self) -> None:
        """Ask again before the next enqueue."""
        self._known.clear()
