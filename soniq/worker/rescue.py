"""Give the jobs of dead workers back."""

from __future__ import annotations

import time

import anyio

from ..db.session import Session
from ..events import JobCancelled, JobDied, JobRescued
from ..store import workers
from ..store.workers import Rescued
from .bench import Bench


class Rescuer:
    """Looks for silent workers a few times within their timeout."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            DatabaseError: For whoever leads to handle.
        """
        settings = self._bench.settings
        timeout = settings.heartbeat_timeout
        tidied = time.monotonic()
        while True:
            rescue = workers.rescue(timeout, settings.notify)
            rescued = await self._session.run(rescue.__iter__)
            for job in rescued:
                self._tell(job)
            if rescued:
                self._bench.hear("*")
            if time.monotonic() - tidied > timeout:
                await self._session.run(workers.forget_silent(timeout * 2).__iter__)
                tidied = time.monotonic()
            if len(rescued) < 1000:
                await anyio.sleep(min(timeout / 4, 7.5))

    def _tell(self, job: Rescued) -> None:
        about = (job.id, job.task, job.queue, job.attempt)
        error = f"WorkerLost: worker {job.worker_id} died or fell silent"
        match job.fate:
            case "queued":
                self._bench.bus.emit(JobRescued(*about, job.worker_id))
            case "dead_letter":
                self._bench.bus.emit(JobDied(*about, error, "all attempts used"))
            case _:
                self._bench.bus.emit(JobCancelled(*about, "cancelled while it ran"))
