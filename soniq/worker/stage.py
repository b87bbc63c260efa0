"""Queue scheduled jobs at their moment, not at the next poll."""

from __future__ import annotations

from ..db.session import Session
from ..store import claims
from .bench import Bench

# A worker that is not idle gets no notification of what is due soon, so it looks this often.
BUSY_LOOK_SECONDS = 0.25
# An idle one hears of what is due within 6 s (store/channel.py), so it looks at least this often.
IDLE_LOOK_SECONDS = 5.0


class Stager:
    """Sleeps until the next scheduled job is due."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            DatabaseError: For whoever leads to handle.
        """
        bench = self._bench
        while True:
            (staged,) = await self._session.run(claims.stage(bench.settings.notify).__iter__)
            if staged.moved:
                bench.hear("*")
            if staged.moved < 1000:
                idle_look = min(bench.settings.poll_interval, IDLE_LOOK_SECONDS)
                look = idle_look if bench.idle else BUSY_LOOK_SECONDS
                next_seconds = look if staged.next_seconds is None else staged.next_seconds
                await bench.wake_stage.wait(max(0.001, min(look, next_seconds)))
