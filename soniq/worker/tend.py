"""Do for queues what their operators asked for in advance."""

from __future__ import annotations

from ..db.session import Session
from ..store import queues
from .bench import Bench

# Of a pause that ends sooner than this the leader hears by a notification, unless they are off.
LOOK_SECONDS = 5.0


class Tender:
    """Wakes idle workers when a pause is over."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            DatabaseError: For whoever leads to handle.
        """
        bench = self._bench
        look = min(LOOK_SECONDS, bench.settings.poll_interval)
        while True:
            query = queues.end_pauses(bench.settings.notify)
            ((ended, seconds),) = await self._session.run(query.__iter__)
            if ended:
                bench.hear("*")
            await bench.wake_tend.wait(look if seconds is None else max(0.001, min(look, seconds)))
