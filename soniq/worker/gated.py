"""Take jobs that wait behind gates, and put those behind them that came without."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from ..db.session import Session
from ..errors import InvalidArguments
from ..job.codec import decode
from ..job.record import Claimed
from ..store import gates
from ..store.gates import Looked, Mended, Taken
from . import breaker
from .bench import Bench

log = logging.getLogger("soniq.worker")

# Another worker's claim at the same gate takes a few milliseconds.
AGAIN_SECONDS = 0.002
# How often a worker looks for limits that no task of its own declares: of queues, which are found
# at once where their jobs cannot be claimed otherwise, and of code that enqueued jobs behind gates
# when its tasks had limits.
LOOK_SECONDS = 0.25
LEFT_OVER_SECONDS = 10.0
# Weights are remembered of so many keys, and so long.
MOST_WEIGHTS = 1000
WEIGHTS_SECONDS = 60.0
# Where a claim found nothing and has more keys to look at, it rests so many times what it took.
REST = 4


class Gated:
    """Claims at gates for one worker.

    Attributes:
        wait_seconds: How long until a gate opens by itself; None if none will.
    """

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session
        self._tasks = bench.registry.names()
        self._marks: dict[str, str] = {}
        self._weights: dict[str, dict[str, float]] = {}
        self._weighed: set[tuple[str, str]] = set()
        self._weigh_until = 0.0
        self._turn = ""
        self._looked_at = float("-inf")
        self._opens_at: float | None = None
        self._rest_seconds = AGAIN_SECONDS

    @property
    def known(self) -> bool:
        """Whether there are limits."""
        return bool(self._bench.gated or self._bench.limited)

    def worth_a_look(self, *, stuck: bool) -> bool:
        """Tell whether to look for some; `stuck` is that there is work, and a claim gave none."""
        since = LOOK_SECONDS if stuck else LEFT_OVER_SECONDS
        return time.monotonic() >= self._looked_at + since

    @property
    def wait_seconds(self) -> float | None:
        """How long until it is worth looking again, if nothing happens; None is for ever."""
        return None if self._opens_at is None else max(0.0, self._opens_at - time.monotonic())

    async def take(self, room: int, *, slots: int, most_bytes: int) -> list[Claimed]:
        """Claim up to so many jobs; answer those that came, which are on the bench already."""
        bench, came = self._bench, list[Claimed]()
        if not self.known and not await self._left_over():
            return came
        bench.freed = False
        again = True
        while again and len(came) < room and not (bench.draining or bench.fenced):
            taken, looked = await self._claim(
                room - len(came), slots=max(0, slots - len(came)), most_bytes=most_bytes
            )
            bench.feed([each.job for each in taken if each.gate is not None])
            await feed(bench, self._session, [each.job for each in taken if each.gate is None])
            came += [each.job for each in taken]
            again = bool(taken) and any(each.wait_seconds == 0 for each in looked)
            self._plan(looked)
        return came

    async def _claim(
        self, number: int, *, slots: int, most_bytes: int
    ) -> tuple[list[Taken], list[Looked]]:
        query = gates.claim(
            self._bench.id,
            self._bench.settings.queues,
            self._tasks,
            number,
            slots=slots,
            most_bytes=most_bytes,
            turn=self._turn,
            marks=self._marks,
            weights=self._weights,
        )
        taken, looked = list[Taken](), list[Looked]()
        began = time.monotonic()
        for row in await self._session.run(query.__iter__):
            match row:
                case Taken():
                    taken.append(row)
                    self._weigh(row)
                case Looked():
                    looked.append(row)
                    if row.lane.endswith(" "):  # a queue without a task has a limit
                        self._bench.limited.add(row.lane[:-1])
                case Mended():
                    breaker.mended(self._bench, row)
        self._rest_seconds = AGAIN_SECONDS if taken else REST * (time.monotonic() - began)
        return taken, looked

    def _plan(self, looked: Sequence[Looked]) -> None:
        """Learn where to go on, and when."""
        self._marks = {each.lane: each.mark for each in looked if each.mark} | {
            lane: mark
            for lane, mark in self._marks.items()
            if lane not in {each.lane for each in looked}
        }
        if looked:
            self._turn = looked[-1].lane
        waits = [each.wait_seconds for each in looked if each.wait_seconds is not None]
        soonest = max(AGAIN_SECONDS, self._rest_seconds, min(waits)) if waits else None
        self._opens_at = None if soonest is None else time.monotonic() + soonest

    def _weigh(self, taken: Taken) -> None:
        """Remember the weight of a key that gave a job, if it is not one."""
        task, gate = taken.job.task, taken.gate
        limits = self._bench.registry.get(task).defaults.limits
        if gate is None or limits is None or limits.weights is None:
            return
        now = time.monotonic()
        if now >= self._weigh_until or len(self._weighed) >= MOST_WEIGHTS:
            self._weighed.clear()
            self._weights.clear()
            self._weigh_until = now + WEIGHTS_SECONDS
        if (task, gate) in self._weighed:
            return
        self._weighed.add((task, gate))
        try:
            weight = limits.weight(gate)
        except Exception:
            log.exception("the weight of a key of %s could not be had; it is 1", task)
        else:
            if weight != 1:
                self._weights.setdefault(task, {})[gate] = weight

    async def _left_over(self) -> bool:
        """Look for limits that no task here declares."""
        self._looked_at = time.monotonic()
        bench = self._bench
        query = gates.waiting(bench.settings.queues, self._tasks)
        for queue, task in await self._session.run(query.__iter__):
            if task is None:
                bench.limited.add(queue)
            else:
                bench.gated.add(task)
        return self.known


async def feed(bench: Bench, session: Session, taken: list[Claimed]) -> None:
    """Put jobs on the bench; those that belong behind gates go back and behind them.

    They came from the SQL function, or from code that knows a task by its name only.
    """
    strays = [job for job in taken if job.task in bench.gated]
    if not strays:
        bench.feed(taken)
        return
    placed = [(job, gate) for job in strays if (gate := _gate(bench, job)) is not None]
    away = {id(job) for job, _ in placed}
    bench.feed([job for job in taken if id(job) not in away])
    if placed:
        await session.run(gates.put_behind(bench.id, placed).__iter__)
        bench.free_gate()


def _gate(bench: Bench, job: Claimed) -> str | None:
    task = bench.registry.get(job.task)
    try:
        return task.gate(decode(job.args))
    except InvalidArguments as error:
        log.warning("job %s of %s goes by no key: %s", job.id, job.task, error)
        return "k"
