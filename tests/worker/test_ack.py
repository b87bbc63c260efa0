"""`ack`: whether the end of a good job waits for the server's disk."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from soniq import Soniq
from soniq.job.record import JobStatus

from .conftest import Ask, ended, run_once, working

pytestmark = pytest.mark.anyio


_COMMIT = """
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"""


@pytest.fixture
async def noted(ask: Ask) -> AsyncIterator[None]:
    """Have the server note in `reason` how each ending commits; the tests' server is a lax one."""
    await ask(_COMMIT.format("SET synchronous_commit = on"))
    await ask(
        """CREATE FUNCTION soniq.note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN NEW.reason := current_setting('synchronous_commit'); RETURN NEW; END $$"""
    )
    for table in ("history", "dead_letters"):
        await ask(
            f"CREATE TRIGGER note_commit BEFORE INSERT ON soniq.{table}"
            " FOR EACH ROW EXECUTE FUNCTION soniq.note_commit()"
        )
    yield
    await ask(_COMMIT.format("RESET synchronous_commit"))
    await ask("DROP FUNCTION soniq.note_commit() CASCADE")


@pytest.mark.parametrize(("ack", "commit"), [("durable", "on"), ("relaxed", "off")])
async def test_only_a_relaxed_worker_does_not_wait_for_the_disk(
    app: Soniq, ask: Ask, noted: None, ack: str, commit: str
) -> None:
    @app.job
    async def succeed() -> None: ...

    await app.enqueue_many(succeed, [{}] * 3)
    await run_once(app, ack=ack)
    assert await ask("SELECT state, reason FROM soniq.history") == [("done", commit)] * 3


async def test_a_failure_waits_for_the_disk_all_the_same(app: Soniq, ask: Ask, noted: None) -> None:
    @app.job(max_retries=0)
    async def fail() -> None:
        raise ValueError

    await app.enqueue(fail)
    await run_once(app, ack="relaxed")
    assert await ask("SELECT reason FROM soniq.dead_letters") == [("on",)]


async def test_a_job_whose_end_the_server_forgot_in_a_crash_runs_again(
    app: Soniq, ask: Ask
) -> None:
    """It lies there as running in a worker that lives; nobody would have rescued it."""
    runs: list[int] = []

    @app.job
    async def note() -> None:
        runs.append(1)

    async with working(app, ack="relaxed", heartbeat_interval=0.1) as hand:
        job_id = await app.enqueue(note)
        await ended(app, job_id)
        # What a crash leaves: the row as it was before its end, and no word of who is alive.
        await ask(
            """WITH gone AS (DELETE FROM soniq.history RETURNING *)
               INSERT INTO soniq.jobs (id, task, queue, args, state, attempt, worker_id)
               SELECT id, task, queue, args, 'processing', attempt, worker_id FROM gone"""
        )
        await ask("TRUNCATE soniq.workers")
        job = await ended(app, job_id)
        assert str(job.worker_id) == hand.worker.id
    assert (job.status, job.attempt, len(runs)) == (JobStatus.DONE, 1, 2)


async def test_a_worker_at_rest_looks_for_what_it_forgot_without_being_rung_for(
    app: Soniq, ask: Ask
) -> None:
    """The bell may have rung while it still lingered after its last job."""

    @app.job
    async def note() -> None: ...

    async with working(app, poll_interval=0.2) as hand:
        job_id = await app.enqueue(note)
        await ended(app, job_id)
        await ask(
            """WITH gone AS (DELETE FROM soniq.history RETURNING *)
               INSERT INTO soniq.jobs (id, task, queue, args, state, attempt, worker_id)
               SELECT id, task, queue, args, 'processing', attempt, worker_id FROM gone"""
        )
        hand.worker.bench.uncertain = True
        assert (await ended(app, job_id)).attempt == 1
