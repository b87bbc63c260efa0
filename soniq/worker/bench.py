"""The bench the loops of one worker share: what is ready, what runs, what ended."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from uuid import uuid4

import anyio

from ..errors import InvalidArguments
from ..events import Bus
from ..job.codec import decode
from ..job.hooks import Hooks
from ..job.outcome import CancelAsked, Ending, Interrupted
from ..job.record import Claimed
from ..job.registry import Registry
from ..policy import turns
from ..policy.shutdown import Phase
from ..settings import Settings
from .attempt import Attempt, Why
from .bell import Bell
from .worn import Worn

_PLACE = attrgetter("priority", "scheduled_at", "id")
_QUEUE = attrgetter("queue")


class Bench:
    """Plain shared state; it decides nothing and waits for nothing.

    Attributes:
        id: The worker's id, a UUID.
        hands: Held by whoever takes from `ready`, for threads do too.
        ready: Claimed jobs that wait for a slot, in order; their queues take turns.
        low: As few as that in `ready`, and more are wanted.
        running: Attempts that run, by job id and number: a thread that will not end may still be at
            an attempt when this worker claims the next one of the same job.
        ended: Attempts whose endings are not yet written, each with its ending.
        writing: Those being written at this moment.
        phase: Where in its life the worker is.
        idle: Whether the database was told that a notification would be of use.
        listening: Whether notifications arrive.
        hints: Queues that a notification named; `*` is any.
        uncertain: The database may hold jobs for this worker that the worker does not know of.
        gated: The names of tasks whose jobs wait behind gates.
        limited: The queues with limits.
        freed: A gate may have more room than when it was last looked at.
        worn: The queues that are not claimed from their heads.
        sweeping: Held by a claim beside the fetcher's.
        fenced: The worker could not report for so long that others may take its jobs.
        leading: Whether this worker does the upkeep.
        finished: Attempts ended so far.
        tally: The same of each queue, since the last sign of life.
    """

    def __init__(self, registry: Registry, settings: Settings, hooks: Hooks, bus: Bus) -> None:
        self.id = str(uuid4())
        self.registry = registry
        self.settings = settings
        self.hooks = hooks
        self.bus = bus
        self.hands = threading.Lock()
        self.ready: deque[Claimed] = deque()
        self._queues: set[str] = set()  # of all that are ready, and maybe of some that were
        self.low = 0
        self.running: dict[tuple[str, int], Attempt] = {}
        self.ended: list[tuple[Claimed, Attempt | None, Ending]] = []
        self.writing: Sequence[tuple[Claimed, Attempt | None, Ending]] = ()
        self.phase = Phase.RUNNING
        self.idle = False
        self.listening = False
        self.hints: set[str] = set()
        self.uncertain = False
        self.gated = {task.name for task in registry if task.defaults.limits is not None}
        self.limited: set[str] = set()
        self.freed = False
        self.worn = Worn()
        self.sweeping = anyio.Lock()
        self.fenced = False
        self.leading = False
        self.finished = 0
        self.tally: Counter[str] = Counter()
        self.fed_at = time.monotonic()
        self.wake_fetch = Bell()
        self.wake_news = Bell()
        self.wake_complete = Bell()
        self.wake_phase = Bell()
        self.wake_watchdog = Bell()
        self.wake_stage = Bell()
        self.wake_tend = Bell()
        self.wake_sweep = Bell()
        self.wake_schedule = Bell()
        self._sleepers: deque[anyio.Event] = deque()

    @property
    def draining(self) -> bool:
        """Whether nothing new is claimed."""
        return self.phase is not Phase.RUNNING

    @property
    def busy(self) -> bool:
        """Whether anything is held that the database does not yet know the end of."""
        return bool(self.ready or self.running or self.ended or self.writing)

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.settings.concurrency - len(self.running)

    def known(self) -> list[str]:
        """List the ids of all jobs this worker knows it holds."""
        unwritten = [*self.ended, *self.writing]
        with self.hands:
            held = [job.id for job in self.ready] + [job_id for job_id, _ in list(self.running)]
        return held + [job.id for job, _, _ in unwritten]

    def hear(self, queue: str) -> None:
        """Take in that there may be work in a queue; `*` is any."""
        if queue == "*" or not self.settings.queues or queue in self.settings.queues:
            self.hints.add(queue)
            self.wake_news.ring()

    def counts(self, job: Claimed) -> bool:
        """Tell whether a limit counts a job, and has room for another when it ends."""
        return job.task in self.gated or job.queue in self.limited

    def free_gate(self) -> None:
        """Take in that a gate may have room."""
        self.freed = True
        self.wake_news.ring()

    def feed(self, taken: list[Claimed]) -> None:
        """Put claimed jobs on the bench and wake as many runners as there are jobs."""
        if not taken:
            return
        self.fed_at = time.monotonic()
        taken.sort(key=_PLACE)  # UPDATE ... RETURNING promises no order
        wanted = [job for job in taken if not job.cancel_requested]
        for job in taken if len(wanted) < len(taken) else ():
            if job.cancel_requested:
                self.end(job, None, CancelAsked())
        with self.hands:
            self._add(wanted)
        if self.fenced:  # others may take from us whatever we hold
            self.hand_back()
        for _ in range(min(len(wanted), len(self._sleepers))):
            self._sleepers.popleft().set()

    def _add(self, jobs: list[Claimed]) -> None:
        if not self.ready:
            self._queues.clear()
        self._queues.update(map(_QUEUE, jobs))
        self.ready.extend(jobs)
        if len(self._queues) > 1:
            dealt = turns.deal(self.ready, _QUEUE)
            self.ready.clear()
            self.ready.extend(dealt)
            self._queues = set(map(_QUEUE, dealt))

    async def next_job(self) -> Claimed:
        """Take the next ready job, waiting for one."""
        while (job := self._take()) is None:
            awake = anyio.Event()
            self._sleepers.append(awake)
            self.wake_fetch.ring()
            try:
                await awake.wait()
            finally:
                if not awake.is_set():
                    self._sleepers.remove(awake)
        if len(self.ready) == self.low:
            self.wake_fetch.ring()
        return job

    def _take(self) -> Claimed | None:
        with self.hands:
            return self.ready.popleft() if self.ready else None

    def remove(self, unwanted: Callable[[Claimed], bool]) -> list[Claimed]:
        """Take some ready jobs from the bench; answer them."""
        with self.hands:
            removed = [job for job in self.ready if unwanted(job)]
            for job in removed:
                self.ready.remove(job)
        return removed

    def end(self, job: Claimed, attempt: Attempt | None, ending: Ending) -> None:
        """Put an ending down to be written."""
        self.ended.append((job, attempt, ending))
        self.wake_complete.ring()

    def hand_back(self) -> None:
        """Give every ready job back; the attempts do not count."""
        while (job := self._take()) is not None:
            self.end(job, None, Interrupted())

    def cancel(self, job_id: str) -> None:
        """Stop a job that somebody cancelled, whether it runs or waits for a slot."""
        for attempt in list(self.running.values()):
            if attempt.job.id == job_id:
                attempt.stop(Why.CANCEL)
        for job in self.remove(lambda job: job.id == job_id):
            self.end(job, None, CancelAsked())

    def close_gate(self, task: str, gate: str | None) -> None:
        """Hand back what was claimed ahead of a task, or of a key, that failures have stopped."""
        if task in self.gated:
            for job in self.remove(
                lambda job: job.task == task and gate in {None, self._gate(job)}
            ):
                self.end(job, None, Interrupted())

    def _gate(self, job: Claimed) -> str | None:
        try:
            return self.registry.get(job.task).gate(decode(job.args))
        except InvalidArguments:
            return "k"

    def stop_running(self, why: Why) -> None:
        """Tell every running attempt to stop."""
        for attempt in list(self.running.values()):
            attempt.stop(why)
