"""Django's connections around jobs: fresh for each, kept no longer than Django would keep them.

A web request begins and ends with `close_old_connections` and an empty log of queries; a job does
too. A `def` job runs in a thread of the worker, which keeps its connection as CONN_MAX_AGE says.
An `async def` job has a thread of its own for what it hands to `sync_to_async`, as a request under
ASGI has, so that no job is in another's transaction; its connections end with it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from anyio import CancelScope
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from ...client.base import Base
from ...job.context import JobContext

Call = Callable[[], Any]


def install(client: Base) -> None:
    """Have it done around every job of an application, outside of all other middleware."""
    registry = client.registry

    def tidy(context: JobContext, call_next: Call) -> Any:
        task = registry.find(context.job_name)
        if task is not None and task.is_async:
            return _in_thread_of_its_own(call_next)
        return _between_requests(call_next)

    client.middleware(tidy)
    client.hooks.thread_end.append(connections.close_all)


def _between_requests(call: Call) -> Any:
    # A block that was open before is a test's, and so is its connection.
    before = _open()  # each look costs some microseconds
    tests = [each.alias for each in before if each.in_atomic_block]
    _refresh(before, tests)
    try:
        return call()
    finally:
        _refresh(_open(), tests)


def _refresh(opened: Sequence[Any], but: Sequence[str]) -> None:
    """Do what `close_old_connections` and `reset_queries` do, but for some."""
    for connection in opened:
        if connection.alias in but:
            continue
        connection.queries_log.clear()
        if connection.in_atomic_block:  # left open by the job: its wrapper would never recover
            connection.close()
            del connections[connection.alias]
        else:
            connection.close_if_unusable_or_obsolete()


def _open() -> list[Any]:
    return list(connections.all(initialized_only=True))


async def _in_thread_of_its_own(call: Callable[[], Awaitable[Any]]) -> Any:
    async with ThreadSensitiveContext() as context:
        try:
            return await call()
        finally:
            # Only if the job used it: a thread is made when it is first wanted.
            if context in SyncToAsync.context_to_thread_executor:
                with CancelScope(shield=True):  # also when the job's time is over
                    await sync_to_async(connections.close_all, thread_sensitive=True)()


def _in_child() -> bool:
    return getattr(sys.modules.get("soniq.worker.processes"), "in_child", False)


if _in_child():
    # A process for jobs imports this before the modules of its tasks, and they need the apps.
    from .ready import start

    start()
