"""From the first signal to the end: drain, cut short, leave behind."""

from __future__ import annotations

import threading

import anyio
import pytest

from soniq import Soniq
from soniq.events import (
    JobFinished,
    JobReleased,
    JobStarted,
    WorkerStarted,
    WorkerStopped,
)
from soniq.job import JobContext
from soniq.job.record import JobStatus
from soniq.policy.shutdown import Phase

from .conftest import Ask, Hand, Seen, ended, eventually, hired, outside, working

pytestmark = pytest.mark.anyio


async def drains(hand: Hand) -> None:
    async def draining() -> bool:
        return hand.worker.bench.phase is Phase.DRAINING

    hand.worker.stop()
    await eventually(draining)


async def test_a_worker_says_when_it_starts_and_when_it_has_stopped(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    async with working(app, queues=("a", "b"), concurrency=3) as hand:
        assert seen.of(WorkerStarted) == [WorkerStarted(hand.worker.id, ("a", "b"), 3)]
        rows = await ask("SELECT queues, concurrency, state FROM soniq.workers")
        assert rows == [(["a", "b"], 3, "running")]
        assert await hand.stop() == 0
        assert seen.of(WorkerStopped) == [WorkerStopped(hand.worker.id, ())]
        assert await ask("SELECT count(*) FROM soniq.workers") == [(0,)]


async def test_draining_lets_running_jobs_finish_takes_no_more_and_beats_on(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    gate, thread_gate = anyio.Event(), threading.Event()

    @app.job
    async def hold() -> str:
        await gate.wait()
        return "async"

    @app.job
    def hold_thread() -> str:
        thread_gate.wait(20)
        return "sync"

    ids = [await app.enqueue(hold), await app.enqueue(hold_thread)]
    try:
        async with working(app, heartbeat_interval=0.05) as hand:
            await seen.some(2, JobStarted)
            await drains(hand)
            later = await app.enqueue(hold)
            seen_at = "SELECT seen_at, state FROM soniq.workers"
            before = await ask(seen_at)

            async def beats() -> bool:
                rows = await ask(seen_at)
                return rows != before and rows[0][1] == "draining"

            await eventually(beats)
            gate.set()
            thread_gate.set()
            with anyio.fail_after(10):
                await hand.ended.wait()
    finally:
        thread_gate.set()
    assert hand.code == 0
    assert [await app.get_result(each) for each in ids] == ["async", "sync"]
    job = await app.get_job(later)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)


@pytest.mark.parametrize("how", ["second stop", "shutdown_timeout"])
async def test_a_second_stop_or_the_timeout_cuts_async_handlers_short_and_releases_their_jobs(
    app: Soniq, seen: Seen, how: str
) -> None:
    cut: list[bool] = []

    @app.job
    async def hold() -> None:
        try:
            await anyio.sleep(30)
        finally:
            cut.append(True)

    ids = [await app.enqueue(hold) for _ in range(3)]
    async with working(app, shutdown_timeout=0.3 if how == "shutdown_timeout" else 30) as hand:
        await seen.some(3, JobStarted)
        began = anyio.current_time()
        await drains(hand)
        if how == "second stop":
            hand.worker.stop()
        with anyio.fail_after(10):
            await hand.ended.wait()
        waited = anyio.current_time() - began
    assert hand.code == 0
    assert cut == [True] * 3
    assert waited < 5
    if how == "shutdown_timeout":
        assert waited >= 0.3
    assert len(seen.of(JobReleased)) == 3
    for job_id in ids:
        job = await app.get_job(job_id)
        assert (job.status, job.attempt, job.worker_id) == (JobStatus.QUEUED, 0, None)


async def test_aborting_sets_the_token_of_sync_handlers_and_releases_those_that_heed_it(
    app: Soniq, seen: Seen
) -> None:
    @app.job
    def heed(ctx: JobContext) -> None:
        for _ in range(4000):
            ctx.check_cancelled()
            threading.Event().wait(0.005)

    @app.job
    def finish(ctx: JobContext) -> str:
        while not ctx.cancelled:
            threading.Event().wait(0.005)
        return "finished"

    heeding, finishing = await app.enqueue(heed), await app.enqueue(finish)
    async with working(app, shutdown_timeout=0.05) as hand:
        await seen.some(2, JobStarted)
    assert hand.code == 0
    job = await app.get_job(heeding)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    assert await app.get_result(finishing) == "finished"


async def test_a_thread_that_does_not_end_is_left_behind_and_its_job_rescued_by_another_worker(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    gate = threading.Event()

    @app.job
    def hold(ctx: JobContext) -> str:
        if ctx.attempt == 1:
            gate.wait(20)
        return f"attempt {ctx.attempt}"

    job_id = await app.enqueue(hold)
    try:
        async with working(app, shutdown_timeout=0.05, sync_grace=0.2) as hand:
            await seen.one(JobStarted)
            began = anyio.current_time()
            assert await hand.stop() == 1
            assert 0.2 <= anyio.current_time() - began < 8
        assert seen.of(WorkerStopped) == [WorkerStopped(hand.worker.id, (job_id,))]
        job = await app.get_job(job_id)
        assert (job.status, job.worker_id) == (JobStatus.PROCESSING, hand.worker.id)
        # The first worker may have been too short-lived to begin the watch.
        await ask(
            "INSERT INTO soniq.watch (since) VALUES (now() - interval '1 day')"
            " ON CONFLICT (single) DO UPDATE SET since = excluded.since"
        )
        async with working(app):
            job = await ended(app, job_id)
        gate.set()
    finally:
        gate.set()
    assert (job.status, job.attempt, job.result) == (JobStatus.DONE, 2, "attempt 2")
    assert [a.outcome for a in job.attempts] == ["worker_lost"]


async def test_stopping_while_a_claim_is_under_way_leaves_nothing_claimed(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    """A claim whose answer came after the worker's last look was left to be rescued, spent.

    A lock on the table holds the claim until the worker has been told to stop.
    """

    @app.job
    async def note() -> None: ...

    for _ in range(3):
        async with await outside(database_url) as other:
            async with working(app) as hand:
                await seen.one(WorkerStarted, worker_id=hand.worker.id)
                async with other.transaction():
                    await other.execute(b"LOCK TABLE soniq.jobs IN SHARE MODE")
                    await other.execute(
                        b"INSERT INTO soniq.jobs (id, task) SELECT gen_random_uuid(), '"
                        + note.name.encode()
                        + b"' FROM generate_series(1, 5)"
                    )
                    await other.execute(b"SELECT pg_notify('soniq', 'q:default')")
                hand.worker.stop()
    rows = await ask("SELECT state, attempt FROM soniq.jobs")
    assert set(rows) <= {("queued", 0)}


async def test_a_stop_that_comes_while_the_claim_waits_loses_no_attempt(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    """The worker ended at once when nothing ran, without waiting for the claim under way."""

    @app.job
    async def note() -> None: ...

    waits = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE '%j.task = ANY%'"
    )
    async with await outside(database_url) as other:
        # No poll meanwhile: it would wait for the lock at its staging, and never come to the claim.
        async with working(app, poll_interval=60) as hand:
            job_id = await app.enqueue(note, delay=3600)
            async with other.transaction():
                await other.execute(b"LOCK TABLE soniq.jobs IN EXCLUSIVE MODE")
                await other.execute(b"UPDATE soniq.jobs SET state = 'queued'")

                async def claiming() -> bool:
                    # Again and again: the first may come before the worker listens, or meet its
                    # look for queues, which cannot see the row yet.
                    await ask("SELECT pg_notify('soniq', 'q:default')")
                    return await ask(waits) == [(True,)]

                await eventually(claiming)
                hand.worker.stop()
                await anyio.sleep(0.2)  # whoever does not wait for the claim is gone by now
            with anyio.fail_after(10):
                await hand.ended.wait()
    job = await app.get_job(job_id)
    assert (job.status, job.attempts) in {(JobStatus.QUEUED, ()), (JobStatus.DONE, ())}
    assert job.worker_id is None or job.status is JobStatus.DONE


async def test_a_cancelled_worker_hands_its_jobs_back_unspent_and_signs_out(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    """An application that cancels the worker's task, as frameworks do at their own shutdown."""

    @app.job
    async def hold() -> None:
        await anyio.sleep(30)

    job_id = await app.enqueue(hold)
    hand = Hand(hired(app))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hand.run)
        await seen.one(JobStarted)
        await hand.die()
    job = await app.get_job(job_id)
    assert (job.status, job.attempt, job.attempts) == (JobStatus.QUEUED, 0, ())
    assert await ask("SELECT count(*) FROM soniq.workers") == [(0,)]


async def test_a_cancelled_worker_waits_for_its_threads_and_writes_how_they_ended(
    app: Soniq, seen: Seen
) -> None:
    """Nobody can kill a thread: to give its job to others meanwhile would run it twice."""
    gate = threading.Event()

    @app.job
    def hold() -> str:
        gate.wait(20)
        return "done"

    job_id = await app.enqueue(hold)
    hand = Hand(hired(app))
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hand.run)
            await seen.one(JobStarted)
            hand.scope.cancel()
            with anyio.move_on_after(0.3):
                await hand.ended.wait()
            assert not hand.ended.is_set()
            assert (await app.get_job(job_id)).status is JobStatus.PROCESSING
            gate.set()
    finally:
        gate.set()
    job = await app.get_job(job_id)
    assert (job.status, job.attempt, job.result) == (JobStatus.DONE, 1, "done")


async def test_stopping_in_the_middle_of_many_jobs_loses_none_and_spends_nothing(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def note() -> None:
        await anyio.sleep(0.01)

    await app.enqueue_many(note, [{}] * 200)
    for stop_after in (20, 60, 120):
        async with working(app, concurrency=5):
            await seen.some(stop_after, JobFinished)
    done = (await ask("SELECT count(*) FROM soniq.history WHERE attempt = 1"))[0][0]
    left = await ask(
        "SELECT state, attempt, attempts, worker_id, count(*) FROM soniq.jobs GROUP BY 1, 2, 3, 4"
    )
    assert 120 <= done <= 200
    assert left in ([("queued", 0, None, None, 200 - done)], [])
