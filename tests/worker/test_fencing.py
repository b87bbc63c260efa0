"""Who may write about a job, and what costs an attempt."""

from __future__ import annotations

import anyio
import psycopg
import pytest

from soniq import Soniq
from soniq.events import (
    JobFinished,
    JobReleased,
    JobRetried,
    JobStarted,
    LeaseLost,
    WorkerFenced,
)
from soniq.job import JobContext
from soniq.job.record import JobStatus

from .conftest import Ask, Seen, ended, eventually, held, idle, outside, run_once, working

pytestmark = pytest.mark.anyio

TAKEN = "UPDATE soniq.jobs SET attempt = attempt + 1, worker_id = gen_random_uuid() WHERE id = %s"
ENDINGS = ["return", "raise", "discard", "cancel", "snooze"]


async def end(how: str) -> None:
    from soniq.job import Cancel, Discard, Snooze

    signals = {"discard": Discard("x"), "cancel": Cancel("x"), "snooze": Snooze(5)}
    if how != "return":
        raise signals.get(how, ValueError("x"))


async def test_whatever_a_stale_attempt_ends_with_changes_nothing_and_harms_no_other_of_its_batch(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    """All ten endings are written in one batch; five of their jobs belong to another worker."""
    gate = anyio.Event()

    @app.job
    async def act(how: str) -> None:
        await gate.wait()
        await end(how)

    stale = [await app.enqueue(act, how) for how in ENDINGS]
    live = [await app.enqueue(act, how) for how in ENDINGS]
    async with working(app):
        await seen.some(10, JobStarted)
        for job_id in stale:
            await ask(TAKEN, job_id)
        before = await ask("SELECT * FROM soniq.jobs WHERE id = ANY(%s) ORDER BY id", stale)
        gate.set()
        lost = await seen.some(5, LeaseLost)
        statuses = []
        for job_id in live:

            async def settled(job_id: str = job_id) -> JobStatus | None:
                status = (await app.get_job(job_id)).status
                return None if status is JobStatus.PROCESSING else status

            statuses.append(await eventually(settled))
    assert sorted(event.job_id for event in lost) == sorted(stale)
    assert {event.attempt for event in lost} == {1}
    assert await ask("SELECT * FROM soniq.jobs WHERE id = ANY(%s) ORDER BY id", stale) == before
    assert statuses == [
        JobStatus.DONE,
        JobStatus.SCHEDULED,
        JobStatus.DEAD_LETTER,
        JobStatus.CANCELLED,
        JobStatus.SCHEDULED,
    ]


async def test_the_same_worker_at_a_later_attempt_is_another_too(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    gate = anyio.Event()

    @app.job
    async def act() -> None:
        await gate.wait()

    job_id = await app.enqueue(act)
    async with working(app) as hand:
        await seen.one(JobStarted)
        await ask("UPDATE soniq.jobs SET attempt = 2")
        gate.set()
        await seen.one(LeaseLost, job_id=job_id)
        job = await app.get_job(job_id)
        assert (job.status, job.worker_id) == (JobStatus.PROCESSING, hand.worker.id)


async def test_another_worker_at_the_same_attempt_is_another_too(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    """A job that was handed back unspent comes to the next worker with the same number."""
    gate = anyio.Event()

    @app.job
    async def act(how: str) -> None:
        await gate.wait()
        await end(how)

    for how in ENDINGS:
        await app.enqueue(act, how)
    async with working(app):
        await seen.some(5, JobStarted)
        await ask("UPDATE soniq.jobs SET worker_id = gen_random_uuid()")
        before = await ask("SELECT * FROM soniq.jobs ORDER BY id")
        gate.set()
        await seen.some(5, LeaseLost)
    assert await ask("SELECT * FROM soniq.jobs ORDER BY id") == before


async def test_a_worker_that_lost_a_job_stops_its_handler_with_the_next_heartbeat(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def hold() -> None:
        await anyio.sleep(30)

    job_id = await app.enqueue(hold)
    async with working(app, heartbeat_interval=0.1):
        await seen.one(JobStarted)
        await ask(TAKEN, job_id)
        await seen.one(LeaseLost, job_id=job_id)
    assert (await app.get_job(job_id)).attempt == 2


async def test_a_job_may_come_back_to_a_worker_whose_thread_is_still_at_it(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    """Running attempts were kept by job id: the end of the first took the second off the book."""
    import threading

    gates = [threading.Event(), threading.Event()]

    @app.job
    def hold(ctx: JobContext) -> int:
        gates[ctx.attempt - 1].wait(20)
        return ctx.attempt

    job_id = await app.enqueue(hold)
    try:
        async with working(app, concurrency=2, poll_interval=0.05) as hand:
            await seen.one(JobStarted, attempt=1)
            await ask("UPDATE soniq.jobs SET state = 'queued', worker_id = NULL")
            await seen.one(JobStarted, attempt=2)
            gates[0].set()
            await seen.one(LeaseLost, attempt=1)
            assert [each.job.attempt for each in hand.worker.bench.running.values()] == [2]
            gates[1].set()
            job = await ended(app, job_id)
    finally:
        for gate in gates:
            gate.set()
    assert (job.status, job.attempt, job.result) == (JobStatus.DONE, 2, 2)
    assert hand.code == 0


# -- what costs an attempt


async def test_a_shutdown_costs_no_attempt(app: Soniq, seen: Seen) -> None:
    @app.job
    async def hold() -> None:
        await anyio.sleep(30)

    job_id = await app.enqueue(hold)
    async with working(app, shutdown_timeout=0.05):
        await seen.one(JobStarted)
    job = await app.get_job(job_id)
    assert (job.status, job.attempt, job.attempts) == (JobStatus.QUEUED, 0, ())
    assert seen.of(JobReleased)[0].job_id == job_id


async def test_a_shutdown_costs_no_attempt_when_the_handler_makes_an_error_of_it(
    app: Soniq, seen: Seen
) -> None:
    """Libraries turn a cancellation into errors of their own; that was counted as a failure."""

    @app.job
    async def hold() -> None:
        try:
            await anyio.sleep(30)
        except BaseException:
            raise ConnectionError("the request was aborted") from None

    @app.job
    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 30)

    ids = [await app.enqueue(hold), await app.enqueue(group)]
    async with working(app, shutdown_timeout=0.05):
        await seen.some(2, JobStarted)
    for job_id in ids:
        job = await app.get_job(job_id)
        assert (job.status, job.attempt, job.attempts) == (JobStatus.QUEUED, 0, ())


async def test_a_prefetched_job_that_is_handed_back_has_spent_no_attempt(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    async with held(app) as (hand, gate, ids, _):
        hand.worker.stop()
        gate.set()
    rows = await ask("SELECT state, attempt, worker_id, scheduled_at <= now() FROM soniq.jobs")
    assert rows
    assert set(rows) == {("queued", 0, None, True)}
    assert len(rows) + len(seen.of(JobStarted)) == len(ids)


async def test_a_snooze_costs_no_attempt_and_a_retry_does(app: Soniq, ask: Ask) -> None:
    from soniq.job import Retry, Snooze

    @app.job
    async def act(how: str) -> None:
        raise Snooze(60) if how == "snooze" else Retry(60)

    snoozed, retried = [await app.enqueue(act, how) for how in ("snooze", "retry")]
    await run_once(app)
    assert (await app.get_job(snoozed)).attempt == 0
    assert (await app.get_job(retried)).attempt == 1
    assert await ask("SELECT snoozes FROM soniq.jobs WHERE id = %s", snoozed) == [(1,)]


async def test_a_claim_whose_answer_was_lost_is_handed_back_unspent(
    app: Soniq, ask: Ask, database_url: str
) -> None:
    """The server claimed, and the connection broke before its answer came.

    A lock on the table holds the claim back until its connection is gone for the worker; then the
    claim is made good by hand, as the server would have.
    """

    @app.job
    async def note() -> None: ...

    async with working(app) as hand:
        warm = await app.enqueue(note)
        await ended(app, warm)
        async with await outside(database_url) as other:
            async with other.transaction():
                await other.execute(b"LOCK TABLE soniq.jobs IN EXCLUSIVE MODE")
                await other.execute(
                    "INSERT INTO soniq.jobs (id, task, state, attempt, worker_id, started_at)"
                    " VALUES (gen_random_uuid(), %s, 'processing', 1, %s, now())",
                    (note.name, hand.worker.id),
                )

                async def claiming() -> bool:
                    # Again and again: it may not listen yet.
                    await ask("SELECT pg_notify('soniq', 'q:default')")
                    found = await ask(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE query LIKE '%j.task = ANY%' AND wait_event_type = 'Lock'"
                        " AND pid <> pg_backend_pid()"
                    )
                    return bool(found)

                await eventually(claiming)

        async def all_done() -> bool:
            rows = await ask("SELECT attempt FROM soniq.history")
            return rows == [(1,), (1,)]

        await eventually(all_done)
    assert await ask("SELECT count(*) FROM soniq.jobs") == [(0,)]


async def test_killing_every_connection_again_and_again_loses_no_job_and_doubles_none(
    app: Soniq, seen: Seen, database_url: str
) -> None:
    """Whatever ran more than once has a record that says why; here there is no such reason."""
    runs: dict[int, int] = {}

    @app.job(max_retries=0)
    async def note(number: int) -> None:
        runs[number] = runs.get(number, 0) + 1
        await anyio.sleep(0.002)

    await app.enqueue_many(note, [{"number": number} for number in range(500)])
    with psycopg.connect(database_url, autocommit=True) as killer:
        async with working(app, concurrency=5, poll_interval=0.2, prefetch=20):
            for _ in range(6):
                before = len(seen.of(JobFinished))
                killer.execute(
                    b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    b" WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    b" AND backend_type = 'client backend'"
                )
                await seen.some(min(500, before + 30), JobFinished, seconds=20)
            with anyio.fail_after(30):
                while True:
                    row = killer.execute(b"SELECT count(*) FROM soniq.jobs").fetchone()
                    if row == (0,):
                        break
                    await anyio.sleep(0.05)
        ends = killer.execute(
            b"SELECT attempt, attempts IS NULL, count(*) FROM soniq.history GROUP BY 1, 2"
        ).fetchall()
        dead = killer.execute(b"SELECT count(*) FROM soniq.dead_letters").fetchone()
    assert sorted(runs) == list(range(500))
    assert dead == (0,)
    assert ends == [(1, True, 500)]
    assert set(runs.values()) == {1}
    assert seen.of(JobRetried) == []


async def test_a_fenced_worker_claims_nothing_until_it_can_report_again(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    """Only its beats did not go through: others took each job that it claimed, at once."""

    @app.job
    async def note() -> None: ...

    async with await outside(database_url) as wall, working(app, heartbeat_timeout=0.6):
        await idle(ask)
        async with wall.transaction():
            await wall.execute("LOCK TABLE soniq.workers IN EXCLUSIVE MODE")
            await seen.one(WorkerFenced)
            job_id = await app.enqueue(note)
            await anyio.sleep(0.3)  # it is notified, and would begin within milliseconds
            assert seen.of(JobStarted) == []
        assert (await ended(app, job_id)).attempt == 1


async def test_jobs_claimed_ahead_of_a_slow_one_go_to_another_worker_when_the_queue_is_empty_too(
    app: Soniq, seen: Seen
) -> None:
    """They were handed back only by a worker that still found others to claim."""
    async with held(app, to_the_last=True) as (_, gate, ids, behind):
        async with working(app, concurrency=2):
            for job_id in behind:
                assert (await ended(app, job_id)).attempt == 1
        gate.set()
    assert len(seen.of(JobStarted)) == len(ids)
