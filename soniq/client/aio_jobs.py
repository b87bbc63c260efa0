"""Jobs through the async client: enqueued, looked at, changed; `sync_jobs.py` is its twin.

Every method is a thin skin over an operation of `store/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import anyio

from ..job.ids import checked_id
from ..job.options import Seconds
from ..job.record import Job, JobStatus, NewJob, QueueStats
from ..job.task import Call, Task
from ..services.dead_letter import AsyncDeadLetters
from ..services.page import checked_status, page
from ..steps import Steps
from ..store import bulk, jobs
from ..store import queues as queues_
from .base import Base, Waiting, moved_to, result_of, run_at_options
from .building import Given, Target

if TYPE_CHECKING:
    from ..db.aio import Database

Q = ParamSpec("Q")
A = TypeVar("A")


class AsyncJobs(Base):
    """The part of `Soniq` that is about jobs."""

    # -- enqueueing

    async def enqueue(
        self,
        target: Target,
        /,
        *values: Any,
        args: Given | None = None,
        queue: str | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
        tags: Sequence[str] | None = None,
        connection: object = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of a task as a job; answer the job's id.

        Args:
            target: A task, a decorated function, a registered name, or a `TaskRef`.
            *values: The task's arguments by place.
            args: All of the task's arguments, by name or by place, instead of the other ways.
            queue: Where the job goes.
            priority: 1 (first) to 1000 (last).
            scheduled_at: An aware moment before which it does not run.
            delay: Seconds, or a timedelta, before which it does not run; by the server's clock.
            tags: Words kept with the job.
            connection: Store it in the transaction of this connection of yours.
            **kwargs: The task's arguments by name.

        Raises:
            UnknownTask: The target is not known here.
            UnknownOption: An option is also a parameter of the task.
            InvalidOption: An option is out of range or of the wrong type.
            InvalidArguments: The arguments do not fit the task, or are no JSON.
            DatabaseError: The database refused or failed.
        """
        options = {
            "queue": queue,
            "priority": priority,
            "scheduled_at": scheduled_at,
            "delay": delay,
            "tags": tags,
            "connection": connection,
        }
        job = self._app.builder.one(target, values, kwargs, args, options)
        return await self._store(job, connection)

    async def schedule(
        self,
        target: Target,
        /,
        run_at: datetime | Seconds,
        *values: Any,
        args: Given | None = None,
        queue: str | None = None,
        priority: int | None = None,
        tags: Sequence[str] | None = None,
        connection: object = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of a task as a job for later; answer the job's id.

        Args:
            target: As for `enqueue`, like everything else.
            run_at: An aware moment, or a timedelta or seconds from now.
            *values: The task's arguments by place.
            args: All of the task's arguments, by name or by place, instead of the other ways.
            queue: Where the job goes.
            priority: 1 (first) to 1000 (last).
            tags: Words kept with the job.
            connection: Store it in the transaction of this connection of yours.
            **kwargs: The task's arguments by name.

        Raises:
            UsageError: As for `enqueue`.
            DatabaseError: The database refused or failed.
        """
        options = {
            **run_at_options(run_at),
            "queue": queue,
            "priority": priority,
            "tags": tags,
            "connection": connection,
        }
        job = self._app.builder.one(target, values, kwargs, args, options)
        return await self._store(job, connection)

    async def enqueue_many(
        self,
        target: Target | Iterable[Call],
        args_list: Iterable[Given] | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
        tags: Sequence[str] | None = None,
        connection: object = None,
    ) -> list[str]:
        """Store many jobs, all or none; answer their ids in the order given.

        Args:
            target: As for `enqueue`; or, without `args_list`, calls: `[task.call(1), ...]`.
            args_list: The arguments of each job, by name (a dict) or by place (a tuple).
            queue: Where the jobs go.
            priority: 1 (first) to 1000 (last).
            scheduled_at: An aware moment before which they do not run.
            delay: Seconds, or a timedelta, before which they do not run.
            tags: Words kept with the jobs.
            connection: Store them in the transaction of this connection of yours.

        Raises:
            UsageError: One of them cannot be stored; the message says which. None was.
            DatabaseError: The database refused or failed.
        """
        options = {
            "queue": queue,
            "priority": priority,
            "scheduled_at": scheduled_at,
            "delay": delay,
            "tags": tags,
        }
        first, more = self._app.builder.many(target, args_list, options)
        lent = self._connection if connection is None else connection
        notify = self._app.settings.notify
        return await self._run_on(
            lent, bulk.enqueue_many, first, more, notify, can_copy=lent is None
        )

    async def enqueue_stream(
        self,
        target: Target,
        args_list: Iterable[Given],
        *,
        queue: str | None = None,
        priority: int | None = None,
        scheduled_at: datetime | None = None,
        delay: Seconds | None = None,
        tags: Sequence[str] | None = None,
        connection: object = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Store any number of jobs, all or none, in little memory; answer how many.

        Their arguments are asked for as the jobs before are sent, and no ids are kept. With a
        connection of yours all jobs are made before the first is sent, so they take their memory.

        Args:
            target: A task, a decorated function, a registered name, or a `TaskRef`.
            args_list: The arguments of each job, by name (a dict) or by place (a tuple); a
                generator, for example.
            queue: Where the jobs go.
            priority: 1 (first) to 1000 (last).
            scheduled_at: An aware moment before which they do not run.
            delay: Seconds, or a timedelta, before which they do not run.
            tags: Words kept with the jobs.
            connection: Store them in the transaction of this connection of yours.
            progress: Called now and then with the number sent so far.

        Raises:
            UsageError: One of them cannot be stored; the message says which. None was.
            DatabaseError: The database refused or failed.
        """
        options = {
            "queue": queue,
            "priority": priority,
            "scheduled_at": scheduled_at,
            "delay": delay,
            "tags": tags,
        }
        first, more = self._app.builder.many(target, args_list, options)
        lent = self._connection if connection is None else connection
        return await self._run_on(
            lent,
            bulk.enqueue_stream,
            first,
            more,
            self._app.settings.notify,
            can_copy=lent is None,
            progress=progress,
        )

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

    async def get_queue_stats(self) -> list[QueueStats]:
        """Tell how each queue stands."""
        return await self._run(queues_.stats().__iter__)

    @property
    def dead_letter(self) -> AsyncDeadLetters:
        """Jobs that used up their attempts or were refused."""
        return AsyncDeadLetters(self._run, self._app.settings.notify)

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
        return await self._run(jobs.delete, checked_id(job_id))

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

    # -- within

    @property
    def _database(self) -> Database:
        if "_opened" not in self.__dict__:
            from ..db.aio import Database

            # Not simply assigned: another thread may be quicker, and have opened its pool.
            made = Database(self._app.settings, **self._connections)
            self.__dict__.setdefault("_opened", made)
        opened: Database = self.__dict__["_opened"]
        return opened

    async def _run_on(
        self,
        connection: object,
        operation: Callable[Q, Steps[A]],
        *args: Q.args,
        **kwargs: Q.kwargs,
    ) -> A:
        if connection is None:
            return await self._database.run(operation, *args, **kwargs)
        return await self._database.run_on(connection, operation, *args, **kwargs)

    async def _run(self, operation: Callable[Q, Steps[A]], *args: Q.args, **kwargs: Q.kwargs) -> A:
        return await self._run_on(self._connection, operation, *args, **kwargs)

    async def _store(self, job: NewJob, connection: object = None) -> str:
        lent = self._connection if connection is None else connection
        notify, waking = self._app.settings.notify, self._app.waking
        return await self._run_on(lent, jobs.enqueue, job, notify, waking)
