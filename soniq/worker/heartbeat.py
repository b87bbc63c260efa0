"""Say that this worker lives, and notice when it has lost its jobs, or the database."""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections import Counter
from typing import TypeVar

import anyio

from .. import __version__
from ..db.session import Session
from ..errors import DatabaseError
from ..events import WorkerFenced
from ..steps import Query
from ..store import workers
from ..store.workers import Sign
from .attempt import Why
from .bench import Bench

R = TypeVar("R")

log = logging.getLogger("soniq.worker")


class Heartbeat:
    """Beats from a task and a connection of its own, so that busy handlers do not delay it."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._last = self._counted_at = time.monotonic()
        settings = bench.settings
        self._interval = min(settings.heartbeat_interval, settings.heartbeat_timeout / 3)

    async def sign_in(self) -> None:
        """Beat for the first time.

        Raises:
            DatabaseError: The database cannot be reached, or refuses.
        """
        await self._session.run(workers.beat(self._sign()).__iter__)
        self._last = time.monotonic()

    async def sign_out(self) -> None:
        """Leave the list of workers."""
        await self._session.run(workers.sign_out(self._bench.id).__iter__)

    async def run(self) -> None:
        """Run until cancelled."""
        async with anyio.create_task_group() as both:
            both.start_soon(self._fence_in_time)
            await self._beat_steadily()

    async def _beat_steadily(self) -> None:
        pause = self._interval
        while True:
            await anyio.sleep(pause)
            try:
                await self._beat()
                pause = self._interval
            except DatabaseError as error:
                log.warning("no heartbeat for %.1f s: %s", self._silent(), error)
                # Sooner than usual: the others will take our jobs if we stay silent.
                pause = self._interval * (0.1 + 0.1 * random.random())  # noqa: S311

    async def _fence_in_time(self) -> None:
        """Stop the jobs when no beat came through, whatever the beat under way still waits for.

        It is one interval early, so that this worker has stopped before others may start.
        """
        limit = self._bench.settings.heartbeat_timeout - self._interval
        while True:
            silent = self._silent()
            if silent >= limit and not self._bench.fenced:
                self._bench.fenced = True
                self._bench.bus.emit(WorkerFenced(self._bench.id, silent))
                self._bench.hand_back()
                self._bench.stop_running(Why.FENCED)
            await anyio.sleep(limit - silent if silent < limit else self._interval)

    def _silent(self) -> float:
        return time.monotonic() - self._last

    async def _beat(self) -> None:
        began = time.monotonic()
        (new,) = await self._ask(workers.beat(self._sign()))
        if new:
            # The server crashed, or another took over from it, and forgot who is alive. It may have
            # forgotten as well that jobs were done, if their endings did not wait for the disk.
            self._bench.uncertain = True
            self._bench.hear("*")
        self._last = began
        if self._bench.fenced:
            self._bench.fenced = False
            self._bench.wake_fetch.ring()
            self._bench.hear("*")
        await self._check_leases()

    async def _ask(self, query: Query[R]) -> list[R]:
        third = self._bench.settings.heartbeat_timeout / 3
        return await self._session.run(query.__iter__, timeout=third)

    async def _check_leases(self) -> None:
        """Stop attempts that others hold by now, and those somebody cancelled."""
        bench = self._bench
        with bench.hands:
            running, ready = list(bench.running.values()), list(bench.ready)
        asked = [*(attempt.job.id for attempt in running), *(job.id for job in ready)]
        if not asked:
            return
        held = dict(await self._ask(workers.held(bench.id, asked)))
        for attempt in running:
            if attempt.job.id not in held:
                attempt.stop(Why.LOST)
        for job_id, cancelled in held.items():
            if cancelled:
                bench.cancel(job_id)
        # The very claims asked about: a job may be handed back and claimed again meanwhile.
        lost = {id(job) for job in ready if job.id not in held}
        if lost:
            bench.remove(lambda job: id(job) in lost)

    def _sign(self) -> Sign:
        bench = self._bench
        return Sign(
            id=bench.id,
            name=self._name,
            queues=bench.settings.queues,
            tasks=tuple(bench.registry.names()),
            concurrency=bench.settings.concurrency,
            running=len(bench.running),
            state=bench.phase.name.lower(),
            idle=bench.idle,
            version=__version__,
            rates=self._rates(),
        )

    def _rates(self) -> dict[str, float]:
        """Tell how many attempts ended per second in each queue, since this was last told."""
        now, tally = time.monotonic(), self._bench.tally
        passed, self._counted_at = now - self._counted_at, now
        self._bench.tally = Counter()
        return {queue: round(number / passed, 3) for queue, number in tally.items() if passed > 0}
