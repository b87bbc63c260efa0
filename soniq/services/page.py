"""What a listing asks for, checked: which rows, how many, and where the page begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar

from ..errors import InvalidOption, shown
from ..job.ids import checked_id
from ..job.names import checked_name
from ..job.options import checked_queue
from ..job.record import JobStatus
from ..job.task import Task
from ..steps import Steps

P = ParamSpec("P")
R = TypeVar("R")


class Run(Protocol):
    """Performs an operation; a sync client's."""

    def __call__(self, operation: Callable[P, Steps[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Perform one."""
        ...


class AsyncRun(Protocol):
    """Performs an operation; an async client's."""

    def __call__(
        self, operation: Callable[P, Steps[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Perform one."""
        ...


class Page(TypedDict):
    """Which rows, as `store/` takes it; None is any."""

    queue: str | None
    task: str | None
    limit: int
    before: str | None


def page(
    queue: str | None, task: Task[..., Any] | str | None, limit: int, before: str | None
) -> Page:
    """Check what a page is asked for by.

    Args:
        queue: Only this queue.
        task: Only this task, or its name.
        limit: At most so many rows, 1 to 1000.
        before: The last id of the page before.

    Raises:
        InvalidOption: A value is out of range or of the wrong type.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
        raise InvalidOption(
            f"limit must be a whole number from 1 to 1000, not {shown(limit)}. For more, ask again "
            "with before= the last id."
        )
    name = task.name if isinstance(task, Task) else task
    return {
        "queue": None if queue is None else checked_queue(queue),
        "task": None if name is None else checked_name(name, "task", 255),
        "limit": limit,
        "before": None if before is None else checked_id(before),
    }


def checked_status(status: JobStatus | str | None) -> JobStatus | None:
    """A status by its name; None is any.

    Raises:
        InvalidOption: No status has that name.
    """
    if status is None:
        return None
    try:
        return JobStatus(status)
    except ValueError:
        known = ", ".join(JobStatus)
        raise InvalidOption(f"There is no status {shown(status)}. Known: {known}.") from None
