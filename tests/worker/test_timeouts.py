"""Attempts that run out of time, and jobs that somebody cancels."""

from __future__ import annotations

import threading

import anyio
import pytest

from soniq import Soniq
from soniq.errors import JobCancelled as ToldToStop
from soniq.events import (
    JobCancelled,
    JobDied,
    JobFinished,
    JobOverran,
    JobRetried,
    JobStarted,
    LeaseLost,
)
from soniq.job import JobContext
from soniq.job.record import JobStatus

from .conftest import Ask, Seen, ended, eventually, held, run_once, working

pytestmark = pytest.mark.anyio

TIMED_OUT = "JobTimeout: The attempt took longer than its timeout of 0.1 s."


async def test_an_async_handler_is_cancelled_at_its_next_await_and_the_attempt_counts(
    app: Soniq, seen: Seen
) -> None:
    cleaned_up: list[float] = []

    @app.job(timeout=0.1, retry_delay=3600)
    async def sleep() -> None:
        began = anyio.current_time()
        try:
            await anyio.sleep(30)
        finally:
            cleaned_up.append(anyio.current_time() - began)

    job_id = await app.enqueue(sleep)
    async with working(app):
        retried = await seen.one(JobRetried)
    assert 0.09 <= cleaned_up[0] < 2
    assert (retried.attempt, retried.error) == (1, TIMED_OUT)
    job = await app.get_job(job_id)
    assert (job.status, job.attempt) == (JobStatus.SCHEDULED, 1)
    assert [(a.outcome, a.error) for a in job.attempts] == [("timed_out", TIMED_OUT)]


async def test_a_handler_with_a_task_group_is_recorded_as_timed_out_all_the_same(
    app: Soniq,
) -> None:
    """On trio a nursery wraps the cancellation in a group, which once counted as the error."""

    @app.job(timeout=0.1, max_retries=0)
    async def sleep() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 30)
            await anyio.sleep(30)

    job_id = await app.enqueue(sleep)
    await run_once(app)
    job = await app.get_job(job_id)
    assert [(a.outcome, a.error) for a in job.attempts] == [("timed_out", TIMED_OUT)]


async def test_after_a_timeout_the_slot_takes_the_next_job_unharmed(app: Soniq) -> None:
    @app.job(timeout=0.05, max_retries=0)
    async def sleep() -> None:
        await anyio.sleep(30)

    @app.job
    async def good() -> str:
        await anyio.sleep(0.06)
        return "good"

    for _ in range(3):
        await app.enqueue(sleep, priority=1)
    good_id = await app.enqueue(good)
    await run_once(app, concurrency=1)
    assert await app.get_result(good_id) == "good"


async def test_a_sync_handler_keeps_its_job_and_slot_until_its_thread_ends(
    app: Soniq, seen: Seen
) -> None:
    gate, told = threading.Event(), threading.Event()

    @app.job(timeout=0.1, max_retries=0)
    def hold(ctx: JobContext) -> None:
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        told.set()
        gate.wait(20)

    @app.job
    async def other() -> None: ...

    job_id = await app.enqueue(hold)
    try:
        async with working(app, concurrency=1, poll_interval=0.05):
            overran = await seen.one(JobOverran, job_id=job_id)
            assert 0.1 <= overran.seconds < 2
            waiting = await app.enqueue(other)

            async def set_() -> bool:
                return told.is_set()

            await eventually(set_)
            await anyio.sleep(0.2)  # time for a poll, which must not find a free slot
            assert (await app.get_job(job_id)).status is JobStatus.PROCESSING
            assert (await app.get_job(waiting)).status is JobStatus.QUEUED
            gate.set()
            job = await ended(app, job_id)
            assert (await ended(app, waiting)).status is JobStatus.DONE
    finally:
        gate.set()
    assert job.status is JobStatus.DEAD_LETTER
    assert [(a.outcome, a.error) for a in job.attempts] == [("timed_out", TIMED_OUT)]
    assert len(seen.of(JobOverran)) == 1


async def test_check_cancelled_ends_a_sync_handler_that_ran_out_of_time(app: Soniq) -> None:
    @app.job(timeout=0.1, max_retries=0)
    def hold(ctx: JobContext) -> None:
        while True:
            ctx.check_cancelled()
            threading.Event().wait(0.005)

    job_id = await app.enqueue(hold)
    await run_once(app)
    job = await app.get_job(job_id)
    assert [(a.outcome, a.error) for a in job.attempts] == [("timed_out", TIMED_OUT)]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_timeouts_of_the_enqueue_go_before_the_tasks_and_that_before_the_setting(
    app: Soniq, kind: str
) -> None:
    async def hold_async() -> str:
        await anyio.sleep(0.3)
        return "done"

    def hold_sync(ctx: JobContext) -> str:
        for _ in range(30):
            ctx.check_cancelled()
            threading.Event().wait(0.01)
        return "done"

    hold = hold_async if kind == "async" else hold_sync
    plain = app.job("plain", max_retries=0)(hold)
    none = app.job("none", max_retries=0, timeout=None)(hold)
    zero = app.job("zero", max_retries=0, timeout=0)(hold)
    short = app.job("short", max_retries=0, timeout=0.05)(hold)
    long = app.job("long", max_retries=0, timeout=60)(hold)
    wanted = [
        (plain, False),
        (plain.options(timeout=60), True),
        (plain.options(timeout=0), True),
        (none, True),
        (none.options(timeout=0.05), False),
        (zero, True),
        (short, False),
        (short.options(timeout=0), True),
        (long, True),
        (long.options(timeout=0.05), False),
    ]
    ids = [await app.enqueue(task) for task, _ in wanted]
    await run_once(app, job_timeout=0.05, concurrency=10)
    statuses = [(await app.get_job(each)).status is JobStatus.DONE for each in ids]
    assert statuses == [done for _, done in wanted]


async def test_a_job_timeout_of_zero_is_no_limit(app: Soniq) -> None:
    @app.job
    async def hold() -> None:
        await anyio.sleep(0.1)

    job_id = await app.enqueue(hold)
    await run_once(app, job_timeout=0)
    assert (await app.get_job(job_id)).status is JobStatus.DONE


# -- cancelling


async def test_a_cancelled_queued_job_never_runs(app: Soniq, seen: Seen) -> None:
    @app.job
    async def note() -> None: ...

    job_id = await app.enqueue(note)
    assert await app.cancel_job(job_id)
    await run_once(app)
    assert seen.of(JobStarted) == []
    job = await app.get_job(job_id)
    assert (job.status, job.attempt) == (JobStatus.CANCELLED, 0)


@pytest.mark.parametrize("notify", ["auto", "off"])
async def test_a_cancelled_running_async_job_stops_and_is_cancelled(
    app: Soniq, seen: Seen, notify: str
) -> None:
    @app.job
    async def hold() -> None:
        await anyio.sleep(30)

    job_id = await app.enqueue(hold)
    async with working(app, notify=notify):
        await seen.one(JobStarted)
        assert await app.cancel_job(job_id)
        await seen.one(JobCancelled, job_id=job_id)
    job = await app.get_job(job_id)
    assert (job.status, job.reason) == (JobStatus.CANCELLED, "cancelled while it ran")


async def test_a_cancellation_reaches_a_worker_that_hears_nothing_with_its_next_heartbeat(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def hold() -> None:
        await anyio.sleep(30)

    job_id = await app.enqueue(hold)
    async with working(app, heartbeat_interval=0.1):
        await seen.one(JobStarted)
        await ask("UPDATE soniq.jobs SET cancel_requested = true")  # and no notification
        await seen.one(JobCancelled, job_id=job_id)


async def test_a_cancelled_running_sync_job_sees_its_token(app: Soniq, seen: Seen) -> None:
    raised: list[str] = []

    @app.job
    def hold(ctx: JobContext) -> None:
        try:
            for _ in range(2000):
                ctx.check_cancelled()
                threading.Event().wait(0.005)
        except ToldToStop as error:
            raised.append(str(error))
            raise

    job_id = await app.enqueue(hold)
    async with working(app):
        await seen.one(JobStarted)
        assert await app.cancel_job(job_id)
        await seen.one(JobCancelled, job_id=job_id)
    assert "it was cancelled" in raised[0]
    assert (await app.get_job(job_id)).status is JobStatus.CANCELLED


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_job_that_finishes_in_spite_of_its_cancellation_is_done(
    app: Soniq, seen: Seen, kind: str
) -> None:
    if kind == "async":

        @app.job(name="hold")
        async def hold() -> str:
            try:
                await anyio.sleep(30)
            except BaseException:
                return "swallowed"
            return "never"
    else:

        @app.job(name="hold")
        def hold(ctx: JobContext) -> str:
            while not ctx.cancelled:
                threading.Event().wait(0.005)
            return "swallowed"

    @app.job
    async def good() -> str:
        await anyio.sleep(0)
        return "good"

    job_id = await app.enqueue("hold")
    async with working(app, concurrency=1):
        await seen.one(JobStarted)
        assert await app.cancel_job(job_id)
        await seen.one(JobFinished, job_id=job_id)
        assert (await app.wait(await app.enqueue(good), timeout=10)).result == "good"
    assert await app.get_result(job_id) == "swallowed"


async def test_an_async_handler_that_swallows_its_timeout_has_timed_out_all_the_same(
    app: Soniq, seen: Seen
) -> None:
    """It was recorded as done, where a `def` handler was not: a timeout's failure counts."""

    @app.job(timeout=0.05, max_retries=0)
    async def hold() -> str:
        try:
            await anyio.sleep(30)
        except BaseException:
            return "swallowed"
        return "never"

    job_id = await app.enqueue(hold)
    async with working(app):
        await seen.one(JobDied, job_id=job_id)
    job = await app.get_job(job_id)
    assert (job.status, job.attempts[-1].outcome) == (JobStatus.DEAD_LETTER, "timed_out")


async def test_a_job_that_fails_when_it_is_cancelled_is_cancelled_and_not_retried(
    app: Soniq, seen: Seen
) -> None:
    """Libraries turn a cancellation into errors of their own; the job then ran again."""

    @app.job
    async def hold() -> None:
        try:
            await anyio.sleep(30)
        except BaseException:
            raise ConnectionError("the request was aborted") from None

    job_id = await app.enqueue(hold)
    async with working(app):
        await seen.one(JobStarted)
        assert await app.cancel_job(job_id)
        await seen.one(JobCancelled, job_id=job_id)
    assert (await app.get_job(job_id)).status is JobStatus.CANCELLED


async def test_a_job_that_is_cancelled_while_it_waits_for_a_slot_never_runs(
    app: Soniq, seen: Seen
) -> None:
    """A claimed job counts as processing: it was asked to stop, and ran all the same."""
    async with held(app) as (_, gate, _, behind):
        for job_id in behind:
            assert await app.cancel_job(job_id)
        for job_id in behind:
            await seen.one(JobCancelled, job_id=job_id)
        gate.set()
        for job_id in behind:
            assert (await ended(app, job_id)).status is JobStatus.CANCELLED
    begun = {event.job_id for event in seen.of(JobStarted)}
    assert behind
    assert begun.isdisjoint(behind)


async def test_a_late_stop_of_a_finished_attempt_does_not_reach_the_next_job_of_its_slot(
    app: Soniq, seen: Seen
) -> None:
    """A heartbeat that asked about an attempt while it ended would have cancelled the next job."""
    from soniq.worker.attempt import Why

    gates = {"first": anyio.Event(), "second": anyio.Event()}

    @app.job
    async def hold(name: str) -> str:
        await gates[name].wait()
        return name

    first, second = [await app.enqueue(hold, name) for name in gates]
    async with working(app, concurrency=1) as hand:
        await seen.one(JobStarted, job_id=first)
        (attempt,) = hand.worker.bench.running.values()
        gates["first"].set()
        await seen.one(JobStarted, job_id=second)
        attempt.stop(Why.LOST)
        await anyio.sleep(0)
        gates["second"].set()
        await seen.one(JobFinished, job_id=second)
    assert [event.attempt for event in seen.of(JobStarted, job_id=second)] == [1]
    assert seen.of(LeaseLost) == []


async def test_a_retry_policy_is_told_of_a_timeout_as_hooks_are(app: Soniq) -> None:
    """It was told of a bare `TimeoutError`, which is none of ours."""
    told: list[BaseException] = []

    @app.job(timeout=0.1, retry_policy=lambda error, attempt, job: told.append(error))
    async def sleep() -> None:
        await anyio.sleep(30)

    await app.enqueue(sleep)
    await run_once(app)
    assert [f"{type(error).__name__}: {error}" for error in told] == [TIMED_OUT]
