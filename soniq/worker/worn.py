"""Queues with a worn head: dead index entries that no vacuum may take away yet.

While some session holds an old snapshot, the jobs that were done since then stay in the index, and
a claim that begins at the head of its queue walks over all of them. So when claims become slow, a
worker begins just below the last jobs it took, priority by priority. What such a claim overlooks
(a job of another priority, one that was handed back, or committed late) is found by whoever sweeps:
it claims from the head, beside, as often as that costs a twentieth of its time.

Which of several queues is worn, a claim of them all does not tell: they are then asked one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

from ..job.record import Claimed

# A claim that has not found its first job by then may be walking: some 5,000 dead entries.
SLOW_SECONDS = 0.002
# All of so many claims must be slow: one may wait for the processor.
CLAIMS = 8
# Of claims so many times as slow, fewer tell: some 50,000 dead entries, or jobs of tasks that this
# worker does not have.
FAR = 10
FEW_CLAIMS = 2
# Of more queues than these it is not asked which is worn: it takes so many claims of each.
FEW_QUEUES = 8
# Being asked, a queue need not be as slow: the others' heads are walked in the same claims.
ASKED_SLOW = 0.75
# Below the last job taken: a job's moment is that of its enqueue's begin, not of its commit.
MARGIN = timedelta(seconds=0.5)

Level = tuple[int, datetime]


class Worn:
    """What one worker knows of the heads of its queues."""

    def __init__(self) -> None:
        self._head: dict[str, deque[float]] = {}
        self._above: dict[str, float] = {}
        self._levels: dict[str, dict[int, datetime]] = {}
        self._slow = SLOW_SECONDS
        self._several: deque[float] = deque(maxlen=CLAIMS)
        self._several_slow = SLOW_SECONDS
        self._questions = 0
        self._enough = 0.0  # for all queues of the last question to be worn

    @property
    def queues(self) -> list[str]:
        """The queues whose head is worn."""
        return list(self._levels)

    @property
    def one_by_one(self) -> bool:
        """Whether queues are claimed apart: some are worn, or it is being asked which."""
        return bool(self._levels or self._questions)

    def levels(self, queue: str) -> list[Level] | None:
        """Tell where to begin at each priority; None is the head."""
        levels = self._levels.get(queue)
        return None if levels is None else [(p, levels[p] - MARGIN) for p in sorted(levels)]

    def claimed(self, queue: str, taken: Sequence[Claimed], seconds: float) -> bool:
        """Learn from a claim; answer whether the head has just been found worn."""
        spent = _walked(taken, seconds)
        if self._questions:
            self._questions -= 1
            if not (self._questions or self._levels):  # none is worn so far that it pays
                self._several_slow = self._next_question()
        if queue in self._levels:
            self._above[queue] = min(self._above.get(queue, spent), spent)
            self._raise(queue, taken)
            return False
        head = self._head.setdefault(queue, deque(maxlen=CLAIMS))
        head.append(spent)
        if not (taken and self._is_slow(head)):
            return False
        self._levels[queue] = {}
        self._raise(queue, taken)
        return True

    def claimed_several(self, queues: int, taken: Sequence[Claimed], seconds: float) -> None:
        """Learn from a claim of so many queues."""
        several = self._several
        several.append(_walked(taken, seconds))
        slow = len(several) == CLAIMS and min(several) >= self._several_slow
        if slow and queues <= FEW_QUEUES:
            self._questions = 2 * CLAIMS * queues
            self._enough = queues * SLOW_SECONDS
            self._head.clear()

    def swept(self, queue: str, taken: Sequence[Claimed], seconds: float) -> None:
        """Learn from a claim from the head of a worn queue: whether beginning above it pays."""
        spent = _walked(taken, seconds)
        if queue in self._above and spent < 2 * self._above[queue] + SLOW_SECONDS / 2:
            # The vacuum came, or the server is slow for another reason.
            self._slow = max(SLOW_SECONDS, 2 * spent)
            for each in (self._levels, self._above, self._head):
                each.pop(queue)
        else:
            self._raise(queue, taken)

    def _next_question(self) -> float:
        """Choose how slow claims of several queues must be to be asked about again.

        By a half slower than now, but not beyond the time at which every queue may be worn.
        """
        now = min(self._several)
        return min(1.5 * now, self._enough) if now < self._enough else 1.5 * now

    def _is_slow(self, head: Sequence[float]) -> bool:
        slow = self._slow * (ASKED_SLOW if self._questions else 1)
        last = list(head)[-FEW_CLAIMS:]
        far = len(last) == FEW_CLAIMS and min(last) >= FAR * slow
        return far or (len(head) == CLAIMS and min(head) >= slow)

    def _raise(self, queue: str, taken: Sequence[Claimed]) -> None:
        levels = self._levels[queue]
        for job in taken:
            if job.scheduled_at > levels.get(job.priority, job.scheduled_at - MARGIN):
                levels[job.priority] = job.scheduled_at


def _walked(taken: Sequence[Claimed], seconds: float) -> float:
    """Tell how long a claim looked for jobs.

    A claim that found some has to be committed as well: that it waited for the disk, or its answer
    for this process, says nothing of the queue's head.
    """
    return min((job.found_seconds for job in taken), default=seconds)
