"""Tasks that accompany one piece of work, and end with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def companions() -> AsyncIterator[TaskGroup]:
    """Open a task group that is cancelled at the block's end, and leaves the block's error bare.

    A task group of anyio wraps it in an `ExceptionGroup`, and who catches `SchemaMissing` would
    miss it.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as error:  # noqa: BLE001  raised below
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
