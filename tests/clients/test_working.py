"""Workers beside an application: run once, in a task, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from soniq import SchemaMissing, SettingsError, UsageError
from soniq.events import JobFinished, WorkerStarted, WorkerStopped
from soniq.job import JobContext, JobStatus

from .colour import entered, settled

pytestmark = pytest.mark.anyio


async def outcome(eq: Any, job_id: str) -> Any:
    if hasattr(eq, "sync"):
        return await eq.wait(job_id, 30)
    return await anyio.to_thread.run_sync(lambda: eq.wait(job_id, 30))


async def test_a_worker_beside_the_block_runs_both_kinds_and_is_drained_at_the_end(
    eq: Any,
) -> None:
    events: list[Any] = []
    for kind in (WorkerStarted, JobFinished, WorkerStopped):
        eq.bus.subscribe(kind, events.append)

    @eq.job(queue="a")
    async def coroutine(n: int, ctx: JobContext) -> list[Any]:
        return [n, ctx.attempt, ctx.queue]

    @eq.job(queue="b")
    def function(n: int) -> bool:
        return threading.current_thread() is not threading.main_thread()

    @eq.job(queue="c")
    def elsewhere() -> None: ...

    unserved = await settled(elsewhere.enqueue())
    async with entered(eq.start_worker(concurrency=2, queues=["a", "b"])) as worker:
        first = await settled(coroutine.enqueue(5))
        second = await settled(function.enqueue(5))
        assert (await outcome(eq, first)).result == [5, 1, "a"]
        assert (await outcome(eq, second)).result is True
    assert events[0] == WorkerStarted(worker.id, ("a", "b"), 2)
    assert {type(event) for event in events[1:-1]} == {JobFinished}
    assert events[-1] == WorkerStopped(worker.id, ())
    assert (await settled(eq.get_job(unserved))).status is JobStatus.QUEUED


async def test_a_sync_worker_within_an_event_loop_is_refused(
    make_client: Callable[..., Any],
) -> None:
    """It was anyio's RuntimeError."""
    client = make_client("postgresql://u@127.0.0.1:1/x")
    sync = getattr(client, "sync", client)
    with pytest.raises(UsageError, match=r"one runs in this thread. Await .* of the async client"):
        sync.run_worker()


async def test_hooks_and_the_applications_retry_policy_reach_the_worker(
    make_client: Callable[..., Any], database_url: str
) -> None:
    asked: list[Any] = []
    seen: list[str] = []

    def policy(error: BaseException, attempt: int, job: Any) -> float | None:
        asked.append((str(error), attempt, job.task))
        return 0 if attempt == 1 else None

    eq = make_client(database_url, retry_policy=policy)
    eq.before_job(lambda ctx: seen.append(f"before {ctx.attempt}"))
    eq.on_error(lambda ctx, error: seen.append(f"error {error}"))

    @eq.job("fails")
    def fails() -> None:
        raise ValueError("no")

    job_id = await settled(fails.enqueue())
    async with entered(eq.start_worker()):
        assert (await outcome(eq, job_id)).status is JobStatus.DEAD_LETTER
    assert asked == [("no", 1, "fails"), ("no", 2, "fails")]
    assert seen == ["before 1", "error no", "before 2", "error no"]


async def test_an_error_in_the_block_stays_bare_and_still_drains_the_worker(eq: Any) -> None:
    stopped: list[Any] = []
    eq.bus.subscribe(WorkerStopped, stopped.append)
    with pytest.raises(KeyError, match="mine"):
        async with entered(eq.start_worker()):
            raise KeyError("mine")
    assert len(stopped) == 1


async def test_a_worker_that_cannot_start_says_why(
    make_client: Callable[..., Any], empty_database: str, eq: Any, colour: str
) -> None:
    homeless = make_client(empty_database)
    with pytest.raises(SchemaMissing):
        async with entered(homeless.start_worker()):
            pytest.fail("it started")
    with pytest.raises(SettingsError, match="concurrency"):
        async with entered(eq.start_worker(concurrency=0)):
            pytest.fail("it started")
    with pytest.raises(SchemaMissing):  # noqa: PT012
        if colour == "sync":
            await anyio.to_thread.run_sync(homeless.run_worker)
        else:
            await homeless.run_worker()


async def test_handlers_of_one_application_share_its_clients(
    eq: Any, witness: Callable[..., Any]
) -> None:
    """A handler enqueues the next job with the client that declared it."""

    @eq.job("next")
    def following() -> str:
        return "there"

    ids: list[str] = []
    if hasattr(eq, "sync"):

        @eq.job("first")
        async def first() -> None:
            ids.append(await following.enqueue())
    else:

        @eq.job("first")
        def first() -> None:
            ids.append(following.enqueue())

    job_id = await settled(first.enqueue())
    async with entered(eq.start_worker()):
        await outcome(eq, job_id)
        assert (await outcome(eq, ids[0])).result == "there"
