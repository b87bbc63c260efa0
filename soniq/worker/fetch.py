"""Take jobs from the queues: as many as there is room for, one statement for all of them."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

import anyio

from ..db.aio import Session
from ..errors import DatabaseError, TransientError
from ..job.outcome import CancelAsked
from ..job.record import Claimed
from ..policy import turns
from ..store import claims, workers
from .bench import Bench

log = logging.getLogger("soniq.worker")

# While jobs come without a break for this long, notifications are of no use and are called off.
BUSY_SECONDS = 0.1
# How often a busy worker looks for queues it did not know to have work.
LOOK_SECONDS = 1.0
# After going idle the first looks are quick: a job whose enqueuer saw us busy and commits only now
# sends no notification.
FIRST_NAP_SECONDS = 0.1


class Fetcher:
    """Claims for one worker.

    Attributes:
        dry: Whether the last look found nothing to claim.
    """

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session
        self._tasks = bench.registry.names()
        self._lanes: list[str] = []
        self._turn = 0
        self._looked_at = 0.0
        self._busy_since: float | None = None
        self._warned: set[str] = set()
        self._pace = Pace()
        self._uncertain = False
        self.dry = False

    async def run(self) -> None:
        """Run until the worker drains; then hand back what is ready."""
        delay = 0.05
        while not self._bench.draining:
            try:
                await self._round()
                delay = 0.05
            except DatabaseError as error:
                # A claim may have been made whose answer never came.
                self._uncertain = True
                level = logging.WARNING if isinstance(error, TransientError) else logging.ERROR
                log.log(level, "claiming waits for the database: %s", error)
                with anyio.move_on_after(delay * (0.5 + random.random())):  # noqa: S311
                    await self._bench.wake_phase.wait()
                delay = min(delay * 2, 5.0)
        self._bench.hand_back()

    async def _round(self) -> None:
        bench = self._bench
        room = self._room()
        if room <= 0:
            await bench.wake_fetch.wait()
            return
        if self._uncertain:
            await self._session.run(claims.hand_back_forgotten(bench.id, bench.known()).__iter__)
            self._uncertain = False
        if not await self._take(room):
            await self._rest()

    def _room(self) -> int:
        """Say how many jobs to claim; 0 while enough are at hand."""
        bench, now = self._bench, time.monotonic()
        ahead = turns.ahead(self._pace.at(now, bench.finished), cap=bench.settings.prefetch)
        target = bench.free + ahead
        at_hand = len(bench.ready)
        # Claimed by halves: a claim of one job costs nearly what a claim of hundreds does.
        return target - at_hand if at_hand <= target // 2 else 0

    async def _take(self, room: int) -> bool:
        """Claim from the queues that had work, then from those a look finds; answer if any came."""
        self._hear()
        now = time.monotonic()
        looked = not self._lanes or now - self._looked_at > LOOK_SECONDS
        if looked:
            await self._look()
        if await self._claim(room):
            await self._note_busy(now)
            return True
        if not looked:
            await self._look()
            if await self._claim(room):
                await self._note_busy(now)
                return True
        return False

    async def _claim(self, room: int) -> bool:
        """Claim until there is no room or no queue with work; answer if any job came."""
        bench, came = self._bench, False
        while room > 0 and self._lanes and not bench.draining:
            numbers = turns.shares(room, self._lanes, self._turn)
            self._turn += 1
            taken = await self._session.run(claims.claim(bench.id, numbers, self._tasks).__iter__)
            counts = Counter(each.job.queue for each in taken)
            dry = {lane for lane, asked in numbers.items() if counts[lane] < asked}
            self._lanes = [lane for lane in self._lanes if lane not in dry]
            taken.sort(key=lambda each: (each.job.priority, each.job.scheduled_at, each.job.id))
            for each in taken:
                if each.cancel_requested:
                    bench.end(each.job, None, CancelAsked())
            self._feed([each.job for each in taken if not each.cancel_requested])
            room -= len(taken)
            came = came or bool(taken)
        return came

    def _feed(self, jobs: list[Claimed]) -> None:
        self.dry = False
        self._bench.feed(jobs)

    async def _look(self) -> None:
        """Find the queues that have work."""
        found = await self._session.run(claims.lanes(self._bench.settings.queues).__iter__)
        self._lanes = found
        self._looked_at = time.monotonic()

    def _hear(self) -> None:
        """Add the queues that notifications named to those that have work."""
        hints, served = self._bench.hints, self._bench.settings.queues
        if "*" in hints:
            self._looked_at = 0.0
        named = (hint for hint in hints if hint != "*" and (not served or hint in served))
        self._lanes += [lane for lane in named if lane not in self._lanes]
        hints.clear()

    # -- nothing to do

    async def _rest(self) -> None:
        """Wait for work: for a notification if one will come, and for the next poll in any case."""
        bench = self._bench
        self._busy_since = None
        if bench.listening and not bench.idle and await self._say_idle():
            return
        await self._warn_of_unknown()
        nap = FIRST_NAP_SECONDS
        while not bench.draining:
            self.dry = True
            bench.wake_phase.ring()
            poll = bench.settings.poll_interval
            if await bench.wake_fetch.wait(min(nap, poll)) and (bench.hints or not bench.listening):
                return
            nap *= 2
            if nap > poll:
                await self._session.run(claims.stage(bench.settings.notify).__iter__)
            if self._room() > 0 and await self._take(self._room()):
                return

    async def _say_idle(self) -> bool:
        """Ask for notifications, then look once more; answer if a job came meanwhile."""
        self._bench.idle = True
        await self._session.run(workers.set_idle(self._bench.id, idle=True).__iter__)
        return await self._take(self._room())

    async def _note_busy(self, now: float) -> None:
        """Call notifications off when jobs come without a break."""
        if self._busy_since is None:
            self._busy_since = now
        elif self._bench.idle and now - self._busy_since > BUSY_SECONDS:
            self._bench.idle = False
            await self._session.run(workers.set_idle(self._bench.id, idle=False).__iter__)

    async def _warn_of_unknown(self) -> None:
        """Say once per name that jobs wait for a task this worker does not have."""
        if not self._lanes and not (found := await self._still_waiting()):
            return
        found = self._lanes or found
        names = await self._session.run(claims.unknown_tasks(found, self._tasks).__iter__)
        for name in set(names) - self._warned:
            self._warned.add(name)
            log.warning(
                "jobs wait for the task %r, which this worker does not have; a worker that has it "
                "will run them. Import its module here if none does.",
                name,
            )

    async def _still_waiting(self) -> list[str]:
        return await self._session.run(claims.lanes(self._bench.settings.queues).__iter__)


class Pace:
    """How many attempts end per second, over the last moments."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._finished = 0
        self._rate = 0.0

    def at(self, now: float, finished: int) -> float:
        """Return the present pace, given how many have ended so far."""
        passed = now - self._since
        if passed >= 0.02:
            fresh = (finished - self._finished) / passed
            self._rate = fresh if passed > 0.5 else (self._rate + fresh) / 2
            self._since, self._finished = now, finished
        return self._rate
