"""Dead letters, as an application sees them: `app.dead_letter`, in both colours."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..job.ids import checked_id
from ..job.record import DeadLetter
from ..job.task import Task
from ..store import dead_letters
from .page import AsyncRun, Run, page

# The classes below have a method named `list`.
Letters: TypeAlias = list[DeadLetter]


class AsyncDeadLetters:
    """Looks at, replays and deletes dead letters."""

    def __init__(self, run: AsyncRun, notify: str) -> None:
        self._run = run
        self._notify = notify

    async def list(
        self,
        queue: str | None = None,
        *,
        task: Task[..., Any] | str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Letters:
        """List one page, newest job first; the next page is `before` the last id of this one."""
        asked = page(queue, task, limit, before)
        return await self._run(dead_letters.list_letters, **asked)

    async def get(self, job_id: str) -> DeadLetter:
        """Find one.

        Raises:
            JobNotFound: There is none.
        """
        return await self._run(dead_letters.get, checked_id(job_id))

    async def replay(self, job_id: str) -> str:
        """Make a new job of it, with all its attempts; answer the new id. The letter stays.

        Raises:
            JobNotFound: There is none.
        """
        return await self._run(dead_letters.replay, checked_id(job_id), self._notify)

    async def delete(self, job_id: str) -> bool:
        """Forget it; answer whether there was one."""
        return await self._run(dead_letters.delete, checked_id(job_id))


class DeadLetters:
    """Looks at, replays and deletes dead letters."""

    def __init__(self, run: Run, notify: str) -> None:
        self._run = run
        self._notify = notify

    def list(
        self,
        queue: str | None = None,
        *,
        task: Task[..., Any] | str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Letters:
        """List one page, newest job first; the next page is `before` the last id of this one."""
        return self._run(dead_letters.list_letters, **page(queue, task, limit, before))

    def get(self, job_id: str) -> DeadLetter:
        """Find one.

        Raises:
            JobNotFound: There is none.
        """
        return self._run(dead_letters.get, checked_id(job_id))

    def replay(self, job_id: str) -> str:
        """Make a new job of it, with all its attempts; answer the new id. The letter stays.

        Raises:
            JobNotFound: There is none.
        """
        return self._run(dead_letters.replay, checked_id(job_id), self._notify)

    def delete(self, job_id: str) -> bool:
        """Forget it; answer whether there was one."""
        return self._run(dead_letters.delete, checked_id(job_id))
