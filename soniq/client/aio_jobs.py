"""Looking at jobs and changing them through the async client; `sync_jobs.py` is its twin.

Every method is a thin skin over an operation of `store/`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import anyio

from ..job.ids import checked_id
from ..job.options import Seconds
from ..job.queue import QueueStats
from ..job.record import Job, JobStatus
from ..job.task import Task
from ..services.dead_letter import AsyncDeadLetters
from ..services.page import checked_status, page
from ..services.queues import AsyncQueues
from ..services.scheduler import AsyncScheduler
from ..store import jobs
from ..store import why as why_
from .aio_enqueue import AsyncEnqueue
from .base import Waiting, moved_to, result_of


class AsyncJobs(AsyncEnqueue):
    """The part of `Soniq` that is about single jobs and queues."""

    # -- looking

    async def get_job(self, job_id: str) -> Job:
        """Find a job, live or ended.

        Raises:
            JobNotFound: There is none, or its record was pruned.
        """
        return await self._run(jobs.get, checked_id(job_id))

    async def get_result(self, job_id: str) -> Any:
        """Read what the handler returned.

        Raises:
            JobNotFound: There is no such job, or its record was pruned.
            InvalidTransition: The job has not ended.
            JobFailed: It was cancelled or became a dead letter; the message has its last error.
        """
        return result_of(await self.get_job(job_id))

    async def wait(self, job_id: str, timeout: Seconds | None = None) -> Job:  # noqa: ASYNC109
        """Wait until a job has ended, well or not; answer it.

        It looks after 10 ms, then less and less often, at last every second.

        Args:
            job_id: The job.
            timeout: Seconds, or a timedelta, to wait at most; None waits for ever.

        Raises:
            WaitTimeout: It had not ended by then.
            JobNotFound: There is no such job, or no longer.
        """
        self._refuse_if_bound("wait(), for a job that starts after the COMMIT,")
        waiting = Waiting(timeout)
        while not (job := await self.get_job(job_id)).status.ended:  # noqa: ASYNC110
            await anyio.sleep(waiting.pause(job))
        return job

    async def list_jobs(
        self,
        status: JobStatus | str | None = None,
        *,
        queue: str | None = None,
        task: Task[..., Any] | str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Job]:
        """List one page of jobs, newest first; the next page is `before` the last id of this one.

        Args:
            status: Only jobs that are this.
            queue: Only jobs of this queue.
            task: Only jobs of this task, or of this name.
            limit: At most so many, 1 to 1000.
            before: Only jobs older than this id.

        Raises:
            InvalidOption: A value is out of range or of the wrong type.
        """
        asked = page(queue, task, limit, before)
        return await self._run(jobs.list_jobs, status=checked_status(status), **asked)

    async def why(self, job_id: str) -> str:
        """Tell in a sentence or two why a job has not run, or what became of it.

        Raises:
            JobNotFound: There is none, or its record was pruned.
        """
        patience = self._app.settings.heartbeat_timeout
        return await self._run(why_.why, checked_id(job_id), patience)

    async def get_queue_stats(self) -> list[QueueStats]:
        """Tell how each queue stands: `queues.list()` under the name it had first."""
        return await self.queues.list()

    @property
    def dead_letter(self) -> AsyncDeadLetters:
        """Jobs that used up their attempts or were refused."""
        return AsyncDeadLetters(self._run, self._app.settings.notify)

    @property
    def queues(self) -> AsyncQueues:
        """The queues: how they stand, and what may be said about them."""
        settings, forget = self._app.settings, self._app.bounds.forget
        return AsyncQueues(self._run, settings.notify, settings.heartbeat_timeout, forget)

    @property
    def scheduler(self) -> AsyncScheduler:
        """Schedules: those that code declares, and your own."""
        return AsyncScheduler(self._run, self._app.planner, self._app.settings)

    # -- changing

    async def cancel_job(self, job_id: str) -> bool:
        """Cancel a waiting job, or ask a running one to stop; answer whether one was found."""
        return await self._run(jobs.cancel, checked_id(job_id), self._app.settings.notify)

    async def retry_job(self, job_id: str) -> str:
        """Run a waiting job now, or an ended one again as a new job; answer the id that runs.

        Raises:
            JobNotFound: There is none.
            InvalidTransition: It is queued or running already.
        """
        return await self._run(jobs.retry, checked_id(job_id), self._app.settings.notify)

    async def delete_job(self, job_id: str) -> bool:
        """Forget a job that is not running; answer whether there was one."""
        return await self._run(jobs.delete, checked_id(job_id), self._app.settings.notify)

    async def reschedule_job(
        self,
        job_id: str,
        *,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
    ) -> bool:
        """Move a waiting job to another moment; answer whether there was one.

        Args:
            job_id: The job.
            scheduled_at: An aware moment.
            delay: Seconds, or a timedelta, from now; 0 runs it now.

        Raises:
            InvalidOption: Neither is given, or both, or one cannot be.
        """
        due = moved_to(scheduled_at, delay)
        return await self._run(jobs.reschedule, checked_id(job_id), due, self._app.settings.notify)
