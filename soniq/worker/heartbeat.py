"""Say that this worker lives, and notice when it has lost its jobs, or the database."""

from __future__ import annotations

import logging
import os
import random
import socket
import time

import anyio

from .. import __version__
from ..db.aio import Session
from ..errors import DatabaseError
from ..events import WorkerFenced
from ..store import workers
from ..store.workers import Sign
from .attempt import Why
from .bench import Bench

log = logging.getLogger("soniq.worker")


class Heartbeat:
    """Beats from a task and a connection of its own, so that busy handlers do not delay it."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._last = time.monotonic()
        self._fenced = False

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
        settings = self._bench.settings
        pause = settings.heartbeat_interval
        while True:
            await anyio.sleep(pause)
            try:
                await self._beat()
                pause = settings.heartbeat_interval
            except DatabaseError as error:
                self._missed(error)
                # Sooner than usual: the others will take our jobs if we stay silent.
                pause = settings.heartbeat_interval * (0.1 + 0.1 * random.random())  # noqa: S311

    async def _beat(self) -> None:
        began = time.monotonic()
        await self._session.run(
            workers.beat(self._sign()).__iter__, timeout=self._bench.settings.heartbeat_timeout / 3
        )
        self._last, self._fenced = began, False
        await self._check_leases()

    async def _check_leases(self) -> None:
        """Stop attempts that others hold by now, and those somebody cancelled."""
        bench = self._bench
        running, ready = dict(bench.running), set(bench.ready)
        asked = [*running, *(job.id for job in ready)]
        if not asked:
            return
        held = dict(await self._session.run(workers.held(bench.id, asked).__iter__))
        for job_id, attempt in running.items():
            if job_id not in held:
                attempt.stop(Why.LOST)
            elif held[job_id]:
                attempt.stop(Why.CANCEL)
        lost = {job for job in ready if job.id not in held}
        for job in [job for job in bench.ready if job in lost]:
            bench.ready.remove(job)

    def _missed(self, error: DatabaseError) -> None:
        silent = time.monotonic() - self._last
        log.warning("no heartbeat for %.1f s: %s", silent, error)
        # One interval early, so that this worker has stopped before others may start.
        limit = self._bench.settings.heartbeat_timeout - self._bench.settings.heartbeat_interval
        if silent >= limit and not self._fenced:
            self._fenced = True
            self._bench.bus.emit(WorkerFenced(self._bench.id, silent))
            self._bench.hand_back()
            self._bench.stop_running(Why.FENCED)

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
        )
