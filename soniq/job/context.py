"""What a handler is told about the run it is in, and what it may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ..errors import JobCancelled, UsageError


class BothWays(AbstractAsyncContextManager[Any], AbstractContextManager[Any], Protocol):
    """Opens with `with` in a `def` handler and with `async with` in an `async def` one."""


class Run(Protocol):
    """The running attempt behind a context; the worker provides it."""

    @property
    def stop_reason(self) -> str | None:
        """Why the handler should stop now; None while it need not."""
        ...

    def transaction(self) -> BothWays:
        """Open a transaction that ends with the job's completion."""
        ...


@dataclass(frozen=True, slots=True)
class JobContext:
    """The run a handler is in; injected into any parameter annotated with this class.

    Attributes:
        job_id: The job's id, the same over all its attempts.
        job_name: The task's name.
        queue: The queue the job came from.
        attempt: Which run this is; the first is 1.
        max_attempts: Runs it may have in all.
        worker_id: The worker that runs it.
        scheduled_at: When this attempt was due.
        created_at: When the job was enqueued.
        tags: Words it was enqueued with.
        trace: Whatever the enqueuer's tracing left here.
    """

    job_id: str
    job_name: str
    queue: str
    attempt: int
    max_attempts: int
    worker_id: str
    scheduled_at: datetime
    created_at: datetime
    tags: tuple[str, ...] = ()
    trace: Mapping[str, Any] = field(default_factory=dict)
    run: Run | None = field(default=None, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: cancelled, timed out, or the worker is stopping."""
        return self.run is not None and self.run.stop_reason is not None

    def check_cancelled(self) -> None:
        """Return if the handler may go on.

        A `def` handler runs in a thread, which nobody can kill: long ones call this now and then.

        Raises:
            JobCancelled: The job was cancelled, ran out of time, or its worker is stopping.
        """
        if self.run is not None and (reason := self.run.stop_reason) is not None:
            raise JobCancelled(f"Job {self.job_id} should stop: {reason}.")

    def transaction(self) -> BothWays:
        """Open a transaction that commits the handler's writes and the job's completion together.

        `async with ctx.transaction() as conn:` in an `async def` handler, `with` in a `def` one.
        When the block ends without an error the job is done, exactly as often as its writes are.

        Raises:
            LeaseLost: At the end of the block, if the job belongs to another attempt by then; the
                writes are rolled back.
        """
        if self.run is None:
            raise UsageError("This context belongs to no running job; only a worker opens one.")
        return self.run.transaction()
