"""One run of one job, as its worker sees it from claim to ending."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArguments
from ..job.codec import decode, encode
from ..job.context import BothWays, JobContext
from ..job.outcome import Signal
from ..job.record import Claimed
from .transaction import JobTransaction, Lender

if TYPE_CHECKING:
    import anyio

    from ..job.task import Task


class Why(StrEnum):
    """Why an attempt was told to stop."""

    TIMEOUT = "it ran out of time"
    CANCEL = "it was cancelled"
    SHUTDOWN = "its worker is stopping"
    FENCED = "its worker lost the database"
    LOST = "it belongs to another worker now"


class Attempt:
    """A claimed job that runs.

    Attributes:
        job: The job as it was claimed.
        task: What it calls.
        deadline: When it runs out of time, by `time.monotonic()`; None is never.
        timeout: The seconds from start to deadline.
        threaded: Whether it runs in a thread, which nobody can kill.
        why: Why it was told to stop; the first reason stays.
        settled: Whether its handler answered in time; how long its hooks take changes nothing.
        written: Whether its handler ended the job within its own transaction.
        left: Whether its thread would not end and the worker went without it.
        overran: Whether it was reported that its thread outlived the deadline.
        reported: Whether the error hooks were called already, in the process it ran in.
        told: Whether its thread has called the `def` error hooks.
    """

    __slots__ = (
        "context",
        "deadline",
        "job",
        "left",
        "lender",
        "overran",
        "reported",
        "scope",
        "settled",
        "started",
        "task",
        "threaded",
        "timeout",
        "told",
        "why",
        "written",
    )

    def __init__(
        self, job: Claimed, task: Task[..., Any], lender: Lender, timeout: float | None
    ) -> None:
        self.job = job
        self.task = task
        self.lender = lender
        self.threaded = not (task.is_async or task.apart)
        self.timeout = timeout
        self.started = time.monotonic()
        # The time of a process's job begins when there is a process for it.
        self.deadline = None if timeout is None or task.apart else self.started + timeout
        self.scope: anyio.CancelScope | None = None
        self.why: Why | None = None
        self.settled = False
        self.written = False
        self.overran = False
        self.reported = False
        self.told = False
        self.left = False
        self.context: JobContext | None = None

    def start_clock(self) -> None:
        """Begin to count the attempt's time, as it begins only now."""
        self.started = time.monotonic()
        self.deadline = None if self.timeout is None else self.started + self.timeout

    def stop(self, why: Why) -> None:
        """Tell the handler to stop: cancel a coroutine, set the token of a thread."""
        if self.why is None:
            self.why = why
            if self.scope is not None and not self.threaded:
                self.scope.cancel()

    @property
    def stop_reason(self) -> str | None:
        """Why the handler should stop, for `JobContext`."""
        why = self.why
        return None if why is None else str(why)

    def transaction(self) -> BothWays:
        """Open a transaction that ends with this job's completion."""
        return JobTransaction(self.lender, self.job, self._ended)

    def build_context(self) -> JobContext:
        """Make the context once; handlers that do not ask for it never pay for it."""
        if self.context is None:
            job = self.job
            self.context = JobContext(
                job_id=job.id,
                job_name=job.task,
                queue=job.queue,
                attempt=job.attempt,
                max_attempts=job.max_attempts,
                worker_id=self.lender.worker_id,
                scheduled_at=job.scheduled_at,
                created_at=job.created_at,
                tags=tuple(decode(job.tags)) if job.tags else (),
                trace=decode(job.trace) if job.trace else {},
                run=self,
            )
        return self.context

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read the stored arguments, with the context where it is asked for.

        Raises:
            InvalidArguments: They do not fit this release of the code.
        """
        wanted = self.task.arguments
        context = None if wanted.context_name is None else self.build_context()
        return wanted.call(decode(self.job.args), context)

    def _ended(self) -> None:
        self.written = True


def kept(task: str, result: object, limit: int) -> str | None:
    """Write a handler's result as it is kept: as JSON text, None for None.

    Raises:
        Signal: The handler returned one, which is as good as raising it.
        InvalidArguments: It cannot be kept.
    """
    if result is None:
        return None
    if isinstance(result, Signal):
        raise result
    try:
        return encode(result, limit=limit, what="result")
    except InvalidArguments as error:
        raise type(error)(f"{task} returned what cannot be kept: {error}") from None
