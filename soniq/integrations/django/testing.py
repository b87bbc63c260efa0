"""For tests of a project: run jobs within a `TestCase`, and forget them between others.

Django's `TestCase` wraps each test in a transaction that is rolled back. What a test enqueues is in
it, so no worker sees it; `drain()` runs it where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import Error, connections, transaction

from ...errors import UsageError
from ...job.record import Job
from ...steps import Query, Steps
from ...worker.inline import Inline
from .clients import client

_FORGET = (
    "DELETE FROM {soniq}.jobs",
    "DELETE FROM {soniq}.history",
    "DELETE FROM {soniq}.dead_letters",
    "DELETE FROM {soniq}.keys",
    """UPDATE {soniq}.gates
    SET spent_until = NULL, failed_at = NULL, closed_until = NULL, probe = NULL""",
)


def drain(queues: Sequence[str] = (), *, raise_errors: bool = True, most: int = 1000) -> list[Job]:
    """Run the jobs that are due, and those they enqueue, in this thread; answer them as they ended.

    Hooks and middleware are called, and retries are counted as by a worker. A retry or a job that
    is due later waits for its moment; another `drain()` runs it then.

    Args:
        queues: Only these; all of them unless said.
        raise_errors: Raise what a handler raised, once it is noted with the job.
        most: Jobs after which something must be wrong, such as one that enqueues itself.

    Raises:
        UsageError: There were more than `most`.
    """
    sync = client().sync
    alias = getattr(sync._app.home, "alias", None)
    inline = Inline(
        sync._run,
        sync.registry,
        sync.settings,
        sync.hooks,
        sync._app.retry_policy,
        guard=lambda call: _guarded(call, alias),
        await_=async_to_sync(_awaited),
        back=lambda call: sync_to_async(call)(),
    )
    ran: dict[str, Job] = {}
    for number, (job_id, error) in enumerate(inline.jobs(tuple(queues))):
        if error is not None and raise_errors:
            raise error
        if number >= most:
            raise UsageError(f"More than {most} jobs ran, the last {job_id}. Do they never end?")
        ran[job_id] = sync.get_job(job_id)
    return list(ran.values())


def forget_jobs() -> None:
    """Delete every job, finished or not; between tests that commit, as `TransactionTestCase` does.

    Django empties the tables of models that it manages, and these are not. Forgotten too is what
    earlier jobs would do to later ones: keys that are still held, what was spent of a rate, open
    circuit breakers. Schedules, and what was said about queues, stay.
    """
    client().sync._run(_forget)


def _forget() -> Steps[None]:
    for statement in _FORGET:
        yield from Query(statement)


def _guarded(call: Callable[[], Any], alias: str | None) -> Any:
    """Call a handler; if it breaks the transaction that a test is in, mend it."""
    if alias is None or not connections[alias].in_atomic_block:
        return call()
    block: Any = transaction.atomic(using=alias)
    with block:
        try:
            return call()
        except Exception as error:
            if isinstance(error, Error) or connections[alias].needs_rollback:
                raise
            harmless = error  # what the handler wrote before stays, as outside of a test
    raise harmless


async def _awaited(coroutine: Any) -> Any:
    return await coroutine
