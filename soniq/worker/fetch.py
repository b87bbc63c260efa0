"""Take jobs from the queues: as many as there is room for, one statement for all of them."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ..db.session import Session
from ..errors import DatabaseError, TransientError
from ..job.record import Claimed
from ..policy import turns
from ..steps import Query
from ..store import claims, workers
from .bench import Bench

log = logging.getLogger("soniq.worker")

R = TypeVar("R")

# While jobs come with shorter breaks than LULL for longer than BUSY, notifications are of no use:
# enqueuers are spared them, and the worker claims every PAUSE until nothing came for LINGER.
BUSY_SECONDS = 0.02
LULL_SECONDS = 0.005
PAUSE_SECONDS = 0.002
# The pause grows with the pace, so that a claim finds more: 4,000 jobs/s are claimed every 4 ms. To
# claim without a pause takes the processor from those who enqueue.
PAUSE_OF_PACE = 1e-6
LONGEST_PAUSE_SECONDS = 0.008
LINGER_SECONDS = 0.05
# How often a busy worker looks for queues that it does not know, and how far ahead it claims;
# the second figures are for some time after jobs of several queues came: more will.
LOOK_SECONDS = (0.05, 0.01)
HORIZON_SECONDS = (0.1, 0.02)
MIXED_SECONDS = 1.0
# It looks less often where that takes long: for each queue it knows, and so many times what the
# last look took. That was mostly the wait for its turn in a busy loop, so the factor is small.
LOOK_LANE_SECONDS = 0.0005
LOOK_REST = 2
MOST_LOOK_SECONDS = 1.0
# Jobs claimed ahead that found no slot for this long go back: another worker may be free.
HOLD_SECONDS = 1.0
# After going idle the first looks are quick: a job whose enqueuer saw us busy and commits only now
# sends no notification.
FIRST_NAP_SECONDS = 0.1


class Fetcher:
    """Claims for one worker.

    Args:
        bench: Where the jobs go.
        session: Its own connection.
        run_once: Whether the worker ends when nothing is due; then nobody else may be there to
            queue what fell due.

    Attributes:
        dry: Whether the last look found nothing to claim.
        ended: Whether it will claim nothing more, not even by a claim under way.
    """

    def __init__(self, bench: Bench, session: Session, *, run_once: bool = False) -> None:
        self._bench = bench
        self._run_once = run_once
        self._session = session
        self._tasks = bench.registry.names()
        self._lanes: list[str] = []
        self._recent: list[str] = []
        self._look_at = 0.0
        self._barren = turns.Barren()
        self._mixed_until = 0.0
        self._took_at = 0.0
        self._busy_since: float | None = None
        self._stuck: list[str] = []
        self._warned: set[str] = set()
        self._pace = Pace()
        self._bytes = 0
        self.dry = False
        self.ended = False

    async def run(self) -> None:
        """Run until the worker drains; then hand back what is ready."""
        delay = 0.05
        while not self._bench.draining:
            try:
                await self._round()
                delay = 0.05
            except DatabaseError as error:
                # A claim may have been made whose answer never came.
                self._bench.uncertain = True
                level = logging.WARNING if isinstance(error, TransientError) else logging.ERROR
                log.log(level, "claiming waits for the database: %s", error)
                await self._bench.wake_news.wait(delay * (0.5 + random.random()))  # noqa: S311
                delay = min(delay * 2, 5.0)
        self._bench.hand_back()
        self.ended = True
        self._bench.wake_phase.ring()

    async def hand_back_forgotten(self, known: Callable[[], Sequence[str]]) -> None:
        """Release what the database says this worker holds, but for these jobs."""
        async with self._bench.sweeping:  # or what it has just claimed would be unknown
            self._bench.uncertain = False  # first: what makes it so meanwhile must stay
            await self._ask(claims.hand_back_forgotten(self._bench.id, known()))

    async def _round(self) -> None:
        bench = self._bench
        if (room := self._room()) <= 0:
            await self._wait_for_room()
            return
        if bench.uncertain:
            await self.hand_back_forgotten(bench.known)
        looked = time.monotonic() < self._look_at
        if not self._lanes and not bench.idle and looked and await self._linger():
            return
        if not await self._take(room):
            await self._rest()
        elif bench.idle and bench.listening and not self._lanes:
            # Whatever else there were would have been notified.
            await self._wait_for_news(FIRST_NAP_SECONDS)

    async def _wait_for_room(self) -> None:
        """Wait until jobs are wanted; hand back what was claimed ahead and finds no slot."""
        bench = self._bench
        if not await bench.wake_fetch.wait(HOLD_SECONDS if bench.ready else None):
            self._hand_back_held()

    def _hand_back_held(self) -> None:
        if time.monotonic() - self._bench.fed_at >= HOLD_SECONDS:
            self._bench.hand_back()

    async def _ask(self, query: Query[R]) -> list[R]:
        return await self._session.run(query.__iter__)

    def _room(self) -> int:
        """Say how many jobs to claim; 0 while enough are at hand, or others would take them."""
        bench, now = self._bench, time.monotonic()
        if bench.fenced:
            return 0
        pace, horizon = self._pace.at(now, bench.finished), HORIZON_SECONDS[now < self._mixed_until]
        ahead = turns.ahead(pace, cap=bench.settings.prefetch, horizon_seconds=horizon)
        target = bench.free + ahead
        at_hand = len(bench.ready)
        # Claimed by halves: a claim of one job costs nearly what a claim of hundreds does.
        bench.low = target // 2
        if at_hand > bench.low:
            return 0
        with bench.hands:
            held = size_of(bench.ready)
        self._bytes = bench.settings.prefetch_bytes - held
        heavy = 2 * self._bytes < bench.settings.prefetch_bytes
        return max(0, bench.free - at_hand) if heavy else target - at_hand

    # -- taking

    async def _take(self, room: int) -> bool:
        """Claim from the queues known to have work, or from those a look finds."""
        self.dry = False
        hinted = self._hear()
        stale = time.monotonic() >= self._look_at
        look_first = not self._lanes or (stale and not hinted)
        if look_first:
            await self._look()
        came = await self._claim(room)
        if not came and not look_first:
            await self._look()
            came = await self._claim(room)
        if came:
            await self._note_busy()
        return came

    async def _claim(self, room: int) -> bool:
        """Claim until there is no room or no queue with work; answer if any job came."""
        bench, came, asked = self._bench, False, self._lanes
        while room > 0 and self._lanes and not bench.draining:
            numbers = turns.shares(room, self._lanes)
            if bench.worn.one_by_one:
                numbers = dict([next(iter(numbers.items()))])
            taken = await self._take_from(numbers)
            bench.feed(taken)
            room -= len(taken)
            came = came or bool(taken)
            counts = Counter(job.queue for job in taken)
            self._learn(numbers, counts)
            full = bool(taken) and self._fills_bytes(taken)
            dry = () if full else [lane for lane in numbers if counts[lane] < numbers[lane]]
            self._lanes = turns.after(self._lanes, numbers, dry=dry)
            if full:
                break
        if came:
            self._recent = asked
        self._stuck = [] if came else asked
        return came

    def _learn(self, asked: Iterable[str], gave: Mapping[str, int]) -> None:
        now = time.monotonic()
        self._barren.learn(asked, gave, now)
        if len(gave) > 1:
            self._mixed_until = now + MIXED_SECONDS

    async def _take_from(self, numbers: dict[str, int]) -> list[Claimed]:
        bench, queue = self._bench, next(iter(numbers)) if len(numbers) == 1 else None
        query = claims.claim(
            bench.id,
            numbers,
            self._tasks,
            slots=self._slots(sum(numbers.values())),
            most_bytes=max(0, self._bytes),
            above=None if queue is None else bench.worn.levels(queue),
        )
        began = time.monotonic()
        taken = await self._ask(query)
        seconds = time.monotonic() - began
        if queue is None:
            bench.worn.claimed_several(len(numbers), len(taken), seconds)
        elif bench.worn.claimed(queue, taken, seconds):
            bench.wake_sweep.ring()
        return taken

    def _slots(self, wanted: int) -> int | None:
        """Say beyond how many jobs a claim is bounded by bytes; None if they cannot be too many."""
        free = self._bench.free
        largest = (wanted - free) * self._bench.settings.max_payload_bytes
        return None if largest <= self._bytes else free

    def _fills_bytes(self, taken: list[Claimed]) -> bool:
        """Tell whether there may have been more jobs, but for the bound of bytes."""
        self._bytes -= size_of(taken)
        return self._bytes < self._bench.settings.max_payload_bytes

    async def _look(self) -> None:
        """Find the queues that have work; those not known come last in the round."""
        began, served = time.monotonic(), self._bench.settings.queues
        # Not at those known: a busy queue begins with the dead entries of the jobs just taken.
        known = list(dict.fromkeys([*self._lanes, *self._bench.worn.queues]))
        found: list[str] = []
        if not served or set(served).difference(known):
            found = await self._ask(claims.lanes(served, beside=known))
        now = time.monotonic()
        least = LOOK_SECONDS[now < self._mixed_until]
        costs = max(LOOK_REST * (now - began), LOOK_LANE_SECONDS * len(known + found))
        self._look_at = now + min(max(least, costs), MOST_LOOK_SECONDS)
        self._barren.keep(found)
        if self._lanes:  # there is work without the barren ones
            found = [queue for queue in found if not self._barren.rests(queue, now)]
        self._lanes = [*known, *found]

    def _hear(self) -> bool:
        """Add the queues that notifications named; answer whether they name all there can be."""
        hints = self._bench.hints
        named = [hint for hint in hints if hint != "*" and hint not in self._lanes]
        everything = "*" in hints
        hints.clear()
        self._lanes += named
        if everything:
            self._look_at = 0.0
        return bool(named) and not everything

    # -- nothing to do

    async def _rest(self) -> None:
        """Wait for work: for a notification if one will come, and for the next poll in any case."""
        bench = self._bench
        if not bench.idle and await self._linger():
            return
        if self._run_once and await self._stage():
            return
        if bench.listening and not bench.idle and await self._say_idle():
            return
        await self._warn_of_unknown()
        nap, poll = FIRST_NAP_SECONDS, bench.settings.poll_interval
        # What made it uncertain may have rung while this lingered, and not ring again.
        while not (bench.draining or bench.uncertain):
            self.dry = True
            bench.wake_phase.ring()
            if await self._wait_for_news(min(nap, poll, HOLD_SECONDS if bench.ready else poll)):
                return
            self._hand_back_held()
            nap *= 2
            if nap > poll and not bench.leading:
                await self._stage()
            if await self._take(self._room()):
                return

    async def _stage(self) -> bool:
        (staged,) = await self._ask(claims.stage(self._bench.settings.notify))
        if staged.moved:
            self._bench.hear("*")
        return staged.moved > 0

    async def _linger(self) -> bool:
        """After a busy time look a few times more before asking for notifications."""
        while time.monotonic() - self._took_at < LINGER_SECONDS and not self._bench.draining:
            pause = min(self._pace.rate * PAUSE_OF_PACE, LONGEST_PAUSE_SECONDS)
            await self._bench.wake_news.wait(max(PAUSE_SECONDS, pause))
            if len(self._recent) == 1 and time.monotonic() < self._look_at:
                self._lanes = list(self._recent)
            else:
                await self._look()
            if await self._claim(self._room()):
                await self._note_busy()
                return True
        return False

    async def _wait_for_news(self, seconds: float) -> bool:
        began = time.monotonic()
        news = await self._bench.wake_news.wait(seconds)
        if time.monotonic() - began > LULL_SECONDS:
            self._busy_since = None
        return news

    async def _say_idle(self) -> bool:
        """Ask for notifications, then look once more; answer if a job came meanwhile."""
        self._bench.idle = True
        self._busy_since = None
        await self._ask(workers.set_idle(self._bench.id, idle=True))
        return await self._take(self._room())

    async def _note_busy(self) -> None:
        """Call notifications off when jobs come without a break."""
        self._took_at = time.monotonic()
        if self._busy_since is None:
            self._busy_since = self._took_at
        elif self._bench.idle and self._took_at - self._busy_since > BUSY_SECONDS:
            self._bench.idle = False
            await self._ask(workers.set_idle(self._bench.id, idle=False))

    async def _warn_of_unknown(self) -> None:
        """Say once per name that jobs wait for a task this worker does not have."""
        if not self._stuck or self._bench.worn.queues:
            return
        for name in await self._ask(claims.unknown_tasks(self._stuck, self._tasks)):
            if name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "jobs wait for the task %r, which this worker does not have; a worker that "
                    "has it will run them. Import its module here if none does.",
                    name,
                )


def size_of(jobs: Iterable[Claimed]) -> int:
    """Count the bytes of the arguments of jobs, as the database does."""
    texts = (job.args for job in jobs)
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


class Pace:
    """How many attempts end per second, over the last moments.

    Attributes:
        rate: What `at` said last.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._finished = 0
        self.rate = 0.0

    def at(self, now: float, finished: int) -> float:
        """Return the present pace, given how many have ended so far."""
        passed = now - self._since
        if passed >= 0.02:
            fresh = (finished - self._finished) / passed
            self.rate = fresh if passed > 0.5 else (self.rate + fresh) / 2
            self._since, self._finished = now, finished
        return self.rate
