"""Do for queues what their operators asked for in advance."""

from __future__ import annotations

import time

from ..db.session import Session
from ..store import aging, gates, queues
from . import breaker
from .bench import Bench

# Of a pause with an end the leader hears by a notification; where none arrive it looks.
LOOK_SECONDS = 30.0
DEAF_LOOK_SECONDS = 5.0
# While something is stopped by failures.
STOPPED_LOOK_SECONDS = 5.0
# A step of priority is given within a quarter of the time it takes to gain it, or a second, while
# that takes no more than a twentieth of the time.
AGING_LOOKS = 4
LEAST_SECONDS = 1.0
REST = 20


class Tender:
    """Wakes workers when a pause is over, raises priorities, sees what was stopped run again."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            DatabaseError: For whoever leads to handle.
        """
        while True:
            pause = min(await self._end_pauses(), await self._age(), await self._settle())
            await self._bench.wake_tend.wait(pause)

    async def _end_pauses(self) -> float:
        """Wake workers for queues whose pause is over; answer the seconds until the next look."""
        settings = self._bench.settings
        query = queues.end_pauses(settings.notify)
        ((ended, seconds),) = await self._session.run(query.__iter__)
        if ended:
            self._bench.hear("*")
        deaf = min(DEAF_LOOK_SECONDS, settings.poll_interval)
        look = LOOK_SECONDS if self._bench.listening else deaf
        return look if seconds is None else max(0.001, min(look, seconds))

    async def _settle(self) -> float:
        """Look what became of jobs that tried what is stopped; answer the seconds to the next look.

        A claim does that, too, but only where another job waits.
        """
        look = LOOK_SECONDS
        for row in await self._session.run(gates.settle().__iter__):
            if row is None:
                look = STOPPED_LOOK_SECONDS
            else:
                breaker.mended(self._bench, row)
        return look

    async def _age(self) -> float:
        """Raise priorities where queues ask for it; answer the seconds until the next time."""
        began, look = time.monotonic(), LOOK_SECONDS
        for queue, seconds in await self._session.run(aging.queues().__iter__):
            await self._session.run(aging.age(queue, seconds).__iter__)
            look = min(look, max(LEAST_SECONDS, seconds / AGING_LOOKS))
        return max(look, REST * (time.monotonic() - began))
