"""Whether an enqueue must look for an idle worker to wake.

To look costs the server about a tenth of a plain INSERT, and while jobs come by the hundred nobody
is idle. So a client that looked and found nobody stores further jobs of that queue without a look,
for a moment. It is short enough that no worker goes to sleep over them: a worker says that it is
idle only after a while (`LINGER_SECONDS` in `worker/fetch.py`) in which nothing came, and the job
that was stored with the look did come. Then it looks once more, and again after a first, short nap,
which finds what a starting worker, or one that could not run that job, would else oversleep.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

# Well below the time a worker lingers: the INSERT that looked must be committed and seen within it.
FRESH_SECONDS = 0.02
# Beyond so many queues all are forgotten, which costs one look for each.
MOST_QUEUES = 1000


class Waking:
    """What one client remembers of its looks; its threads and tasks share it, without a lock.

    That somebody was idle is never remembered: whoever may be asleep is woken.

    Args:
        clock: Seconds that only grow, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._nobody: dict[tuple[Hashable, str], float] = {}  # when a look that found nobody began

    def is_needless(self, place: Hashable, queue: str) -> bool:
        """Tell whether nobody was idle a moment ago.

        Args:
            place: Which database; None is not known.
            queue: Where the job goes.
        """
        looked = self._nobody.get((place, queue))
        return looked is not None and self.clock() - looked < FRESH_SECONDS

    def found_nobody(self, place: Hashable, queue: str, began: float) -> None:
        """Remember a look, by the clock before it was sent."""
        if place is None:
            return
        if len(self._nobody) >= MOST_QUEUES:
            self._nobody.clear()
        self._nobody[place, queue] = began
