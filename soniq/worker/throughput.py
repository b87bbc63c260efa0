"""How quick a worker's jobs are."""

from __future__ import annotations

import time


class Throughput:
    """How many attempts end per second, over the last moments.

    Attributes:
        rate: What `at` said last.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._finished = 0
        self.rate = 0.0

    def at(self, now: float, finished: int) -> float:
        """Return the present rate, given how many have ended so far."""
        passed = now - self._since
        if passed >= 0.02:
            fresh = (finished - self._finished) / passed
            self.rate = fresh if passed > 0.5 else (self.rate + fresh) / 2
            self._since, self._finished = now, finished
        return self.rate
