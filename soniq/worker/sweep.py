"""Find what claims that begin above a worn head overlook."""

from __future__ import annotations

import logging
import time

import anyio

from ..db.session import Session
from ..errors import DatabaseError
from ..store import claims
from . import gated
from .bench import Bench

log = logging.getLogger("soniq.worker")

LEAST_SECONDS = 1.0
# A sweep takes a twentieth of the time.
REST = 20


class Sweeper:
    """Claims from the heads of worn queues, on a connection that it makes when there is one."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session
        self._tasks = bench.registry.names()

    async def run(self) -> None:
        """Run until cancelled."""
        bench = self._bench
        while True:
            if not bench.worn.queues:
                await bench.wake_sweep.wait()
            began = time.monotonic()
            try:
                await self._sweep()
            except DatabaseError as error:
                bench.uncertain = True
                log.debug("sweeping waits for the database: %s", error)
            await anyio.sleep(max(LEAST_SECONDS, REST * (time.monotonic() - began)))

    async def _sweep(self) -> None:
        bench = self._bench
        for queue in [] if bench.draining or bench.fenced else bench.worn.queues:
            async with bench.sweeping:
                await self._claim(queue)
        if bench.draining:
            bench.hand_back()
            return
        for lane in await self._session.run(claims.lanes(bench.settings.queues).__iter__):
            bench.hear(lane)

    async def _claim(self, queue: str) -> None:
        bench, began = self._bench, time.monotonic()
        query = claims.claim(bench.id, {queue: max(1, bench.free)}, self._tasks)
        taken = await self._session.run(query.__iter__)
        bench.worn.swept(queue, taken, time.monotonic() - began)
        await gated.feed(bench, self._session, taken)
