"""Take jobs from the queues while there is room for them, and rest while there are none."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

from ..db.session import Session
from ..errors import DatabaseError, TransientError
from ..store import claims, workers
from .bench import Bench
from .take import Taker

log = logging.getLogger("soniq.worker")

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
        self._taker = Taker(bench, session)
        self._ask = self._taker.ask
        self._took_at = 0.0
        self._busy_since: float | None = None
        self._warned: set[str] = set()
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
        if (room := self._taker.room()) <= 0:
            await self._wait_for_room()
            return
        if bench.uncertain:
            await self.hand_back_forgotten(bench.known)
        taker = self._taker
        if not (taker.lanes or bench.idle) and taker.looked and await self._linger():
            return
        if not await self._take(room):
            await self._rest()
        elif bench.idle and bench.listening and not taker.lanes:
            # Whatever else there were would have been notified.
            await self._wait_for_news(self._until_gate(FIRST_NAP_SECONDS))

    async def _wait_for_room(self) -> None:
        """Wait until jobs are wanted; hand back what was claimed ahead and finds no slot."""
        bench = self._bench
        if not await bench.wake_fetch.wait(HOLD_SECONDS if bench.ready else None):
            self._hand_back_held()

    def _hand_back_held(self) -> None:
        if time.monotonic() - self._bench.fed_at >= HOLD_SECONDS:
            self._bench.hand_back()

    async def _take(self, room: int) -> bool:
        self.dry = False
        if came := await self._taker.take(room):
            await self._note_busy()
        return came

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
            most = min(nap, poll, HOLD_SECONDS if bench.ready else poll)
            if await self._wait_for_news(self._until_gate(most)):
                return
            self._hand_back_held()
            nap *= 2
            if nap > poll and not bench.leading:
                await self._stage()
            if await self._take(self._taker.room()):
                return

    async def _stage(self) -> bool:
        (staged,) = await self._ask(claims.stage(self._bench.settings.notify))
        if staged.moved:
            self._bench.hear("*")
        return staged.moved > 0

    async def _linger(self) -> bool:
        """After a busy time look a few times more before asking for notifications."""
        while time.monotonic() - self._took_at < LINGER_SECONDS and not self._bench.draining:
            pause = min(self._taker.pace * PAUSE_OF_PACE, LONGEST_PAUSE_SECONDS)
            await self._bench.wake_news.wait(max(PAUSE_SECONDS, pause))
            if await self._taker.take_again():
                await self._note_busy()
                return True
        return False

    def _until_gate(self, seconds: float) -> float:
        """Wait no longer than until a gate may open by itself."""
        opens = self._taker.gated.wait_seconds
        return seconds if opens is None else min(seconds, opens)

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
        return await self._take(self._taker.room())

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
        stuck = self._taker.stuck
        if not stuck or self._bench.worn.queues:
            return
        for name in await self._ask(claims.unknown_tasks(stuck, self._taker.tasks)):
            if name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "jobs wait for the task %r, which this worker does not have; a worker that "
                    "has it will run them. Import its module here if none does.",
                    name,
                )
