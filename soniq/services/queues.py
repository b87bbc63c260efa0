"""Queues, as operators see them: `app.queues`, in both colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any, Literal, TypeAlias

from ..errors import InvalidOption, shown
from ..job.names import checked_name
from ..job.options import Seconds, checked_moment, checked_queue
from ..job.outcome import seconds_of
from ..job.queue import Number, OnFull, QueueStats, checked_limits
from ..job.task import Task
from ..store import queues
from .page import AsyncRun, Run

# The classes below have a method named `list`.
Stats: TypeAlias = list[QueueStats]
Waiting: TypeAlias = Literal["scheduled", "queued"]


class AsyncQueues:
    """Looks at queues, pauses, limits, empties and moves them while everything runs."""

    def __init__(
        self, run: AsyncRun, notify: str, patience: float, forget: Callable[[], None]
    ) -> None:
        self._run = run
        self._notify = notify
        self._patience = patience
        self._forget = forget

    async def list(self) -> Stats:
        """Tell how each queue stands: those with jobs or dead letters, and those with a say.

        It reads each live job once: about a fifth of a second for a million.
        """
        return await self._run(queues.stats(self._patience).__iter__)

    async def get(self, name: str) -> QueueStats:
        """Tell how one queue stands; one that nobody knows is empty."""
        return await self._run(queues.stats_of, checked_queue(name), self._patience)

    async def pause(self, name: str, until: datetime | Seconds | None = None) -> None:
        """Have workers take nothing from a queue; jobs that run go on, new ones wait.

        Args:
            name: The queue; it need not have had a job yet.
            until: When that ends by itself: an aware moment, or a timedelta or seconds from now.
                None is until `resume`.

        Raises:
            InvalidOption: The name or the moment cannot be.
        """
        await self._run(queues.pause(checked_queue(name), _until(until), self._notify).__iter__)

    async def resume(self, name: str) -> bool:
        """Have workers take from a queue again, at once; answer whether it was paused."""
        return await self._run(queues.resume, checked_queue(name), self._notify)

    async def limit(
        self,
        name: str,
        *,
        concurrency: Number = ...,
        rate_limit: str | EllipsisType | None = ...,
        rate_burst: Number = ...,
        max_depth: Number = ...,
        on_full: OnFull | EllipsisType | None = ...,
        aging: Seconds | EllipsisType | None = ...,
    ) -> None:
        """Say what a queue may do, for all workers and clients; what is left out stays as it was.

        Args:
            name: The queue; it need not have had a job yet.
            concurrency: Its jobs that may run at once, over all workers; None takes a limit away,
                here and below.
            rate_limit: How many may start in which time: `100/minute`.
            rate_burst: How many may start at once after a rest.
            max_depth: Its jobs that may wait, scheduled ones too.
            on_full: What becomes of one too many: `raise`, `drop_oldest` or `wait`.
            aging: Seconds a job waits before its priority rises by one.

        Raises:
            InvalidOption: A value cannot be, or means nothing without another.
        """
        changes = checked_limits(
            concurrency=concurrency,
            rate_limit=rate_limit,
            rate_burst=rate_burst,
            max_depth=max_depth,
            on_full=on_full,
            aging=aging,
        )
        await self._run(queues.limit, checked_queue(name), changes, self._notify)
        self._forget()

    async def purge(
        self,
        name: str,
        *,
        state: Waiting | None = None,
        task: Task[..., Any] | str | None = None,
        preview: bool = False,
    ) -> int:
        """Cancel the jobs that wait in a queue, with a record of each; answer how many.

        Jobs that run are left alone, and so are those that come while this goes on. Thousands at a
        time are one transaction; on a lent connection all are part of its own.

        Args:
            name: The queue.
            state: Only those that are `scheduled`, or that are `queued`.
            task: Only those of this task, or of this name.
            preview: Count them, and leave them.

        Raises:
            InvalidOption: A value cannot be.
        """
        asked = _asked(name, state, task, preview=preview)
        if preview:
            return await self._run(queues.count, **asked)
        return await self._run(queues.purge, notify=self._notify, **asked)

    async def move(
        self,
        name: str,
        target: str,
        *,
        state: Waiting | None = None,
        task: Task[..., Any] | str | None = None,
        preview: bool = False,
    ) -> int:
        """Give the jobs that wait in a queue to another; answer how many.

        They keep their ids, priorities and moments, and are not held to the other's `max_depth`.
        Otherwise as `purge`.

        Args:
            name: The queue they leave.
            target: The queue they go to.
            state: Only those that are `scheduled`, or that are `queued`.
            task: Only those of this task, or of this name.
            preview: Count them, and leave them.

        Raises:
            InvalidOption: A value cannot be, or both queues are one.
        """
        asked, target = _asked(name, state, task, preview=preview), _other(name, target)
        if preview:
            return await self._run(queues.count, **asked)
        return await self._run(queues.move, target=target, notify=self._notify, **asked)


class Queues:
    """Looks at queues, pauses, limits, empties and moves them while everything runs."""

    def __init__(self, run: Run, notify: str, patience: float, forget: Callable[[], None]) -> None:
        self._run = run
        self._notify = notify
        self._patience = patience
        self._forget = forget

    def list(self) -> Stats:
        """Tell how each queue stands: those with jobs or dead letters, and those with a say.

        It reads each live job once: about a fifth of a second for a million.
        """
        return self._run(queues.stats(self._patience).__iter__)

    def get(self, name: str) -> QueueStats:
        """Tell how one queue stands; one that nobody knows is empty."""
        return self._run(queues.stats_of, checked_queue(name), self._patience)

    def pause(self, name: str, until: datetime | Seconds | None = None) -> None:
        """Have workers take nothing from a queue; jobs that run go on, new ones wait.

        Args:
            name: The queue; it need not have had a job yet.
            until: When that ends by itself: an aware moment, or a timedelta or seconds from now.
                None is until `resume`.

        Raises:
            InvalidOption: The name or the moment cannot be.
        """
        self._run(queues.pause(checked_queue(name), _until(until), self._notify).__iter__)

    def resume(self, name: str) -> bool:
        """Have workers take from a queue again, at once; answer whether it was paused."""
        return self._run(queues.resume, checked_queue(name), self._notify)

    def limit(
        self,
        name: str,
        *,
        concurrency: Number = ...,
        rate_limit: str | EllipsisType | None = ...,
        rate_burst: Number = ...,
        max_depth: Number = ...,
        on_full: OnFull | EllipsisType | None = ...,
        aging: Seconds | EllipsisType | None = ...,
    ) -> None:
        """Say what a queue may do, for all workers and clients; what is left out stays as it was.

        Args:
            name: The queue; it need not have had a job yet.
            concurrency: Its jobs that may run at once, over all workers; None takes a limit away,
                here and below.
            rate_limit: How many may start in which time: `100/minute`.
            rate_burst: How many may start at once after a rest.
            max_depth: Its jobs that may wait, scheduled ones too.
            on_full: What becomes of one too many: `raise`, `drop_oldest` or `wait`.
            aging: Seconds a job waits before its priority rises by one.

        Raises:
            InvalidOption: A value cannot be, or means nothing without another.
        """
        changes = checked_limits(
            concurrency=concurrency,
            rate_limit=rate_limit,
            rate_burst=rate_burst,
            max_depth=max_depth,
            on_full=on_full,
            aging=aging,
        )
        self._run(queues.limit, checked_queue(name), changes, self._notify)
        self._forget()

    def purge(
        self,
        name: str,
        *,
        state: Waiting | None = None,
        task: Task[..., Any] | str | None = None,
        preview: bool = False,
    ) -> int:
        """Cancel the jobs that wait in a queue, with a record of each; answer how many.

        Jobs that run are left alone, and so are those that come while this goes on. Thousands at a
        time are one transaction; on a lent connection all are part of its own.

        Args:
            name: The queue.
            state: Only those that are `scheduled`, or that are `queued`.
            task: Only those of this task, or of this name.
            preview: Count them, and leave them.

        Raises:
            InvalidOption: A value cannot be.
        """
        asked = _asked(name, state, task, preview=preview)
        if preview:
            return self._run(queues.count, **asked)
        return self._run(queues.purge, notify=self._notify, **asked)

    def move(
        self,
        name: str,
        target: str,
        *,
        state: Waiting | None = None,
        task: Task[..., Any] | str | None = None,
        preview: bool = False,
    ) -> int:
        """Give the jobs that wait in a queue to another; answer how many.

        They keep their ids, priorities and moments, and are not held to the other's `max_depth`.
        Otherwise as `purge`.

        Args:
            name: The queue they leave.
            target: The queue they go to.
            state: Only those that are `scheduled`, or that are `queued`.
            task: Only those of this task, or of this name.
            preview: Count them, and leave them.

        Raises:
            InvalidOption: A value cannot be, or both queues are one.
        """
        asked, target = _asked(name, state, task, preview=preview), _other(name, target)
        if preview:
            return self._run(queues.count, **asked)
        return self._run(queues.move, target=target, notify=self._notify, **asked)


def _until(until: datetime | Seconds | None) -> datetime | float | None:
    if until is None:
        return None
    if isinstance(until, datetime):
        return checked_moment(until, "until")
    return seconds_of(until, "until")


def _asked(
    name: str, state: str | None, task: Task[..., Any] | str | None, *, preview: bool
) -> Mapping[str, Any]:
    if not isinstance(preview, bool):
        raise InvalidOption(f"preview is True or False, not {shown(preview)}.")
    if state is not None and state not in queues.WAITING:
        raise InvalidOption(f"state must be 'scheduled' or 'queued', not {shown(state)}.")
    task = task.name if isinstance(task, Task) else task
    return {
        "queue": checked_queue(name),
        "states": queues.WAITING if state is None else (state,),
        "task": None if task is None else checked_name(task, "task", 255),
    }


def _other(name: str, target: str) -> str:
    if checked_queue(target) == name:
        raise InvalidOption(f"Jobs of {name!r} are there already; name another queue.")
    return target
