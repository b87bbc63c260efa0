"""Workers that die or fall silent, and who takes care of what they held."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from soniq import Soniq
from soniq.events import JobCancelled, JobDied, JobFinished, JobRescued, JobStarted
from soniq.job.record import JobStatus

from .conftest import Ask, Seen, ended, eventually, working

pytestmark = pytest.mark.anyio

QUICK: dict[str, Any] = {"heartbeat_timeout": 1.0, "heartbeat_interval": 0.2, "poll_interval": 0.2}
WATCHED = "INSERT INTO soniq.watch (since) VALUES (now() - interval '1 day')"
SILENT = "e2a5ee1d-0000-4000-8000-000000000000"
HELD = """
    UPDATE soniq.jobs SET state = 'processing', attempt = attempt + 1, started_at = now(),
        worker_id = CAST(%s AS uuid) WHERE id = %s"""


async def test_the_job_of_a_silent_worker_runs_again_and_its_attempts_say_why(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def note() -> str:
        return "done"

    job_id = await app.enqueue(note)
    await ask(HELD, SILENT, job_id)
    await ask(
        "INSERT INTO soniq.workers (id, name, concurrency, version, seen_at)"
        " VALUES (%s, 'silent', 1, '0', now() - interval '0.7 s')",
        SILENT,
    )
    await ask(WATCHED)
    began = anyio.current_time()
    async with working(app, **QUICK):
        rescued = await seen.one(JobRescued, job_id=job_id)
        assert anyio.current_time() - began > 0.2, "its time of silence was not over"
        job = await ended(app, job_id)
    assert rescued.worker_id == SILENT
    assert (job.status, job.attempt, job.result) == (JobStatus.DONE, 2, "done")
    ((attempt, outcome, error),) = [(a.attempt, a.outcome, a.error) for a in job.attempts]
    assert (attempt, outcome) == (1, "worker_lost")
    assert SILENT in (error or "")
    assert job.attempts[0].worker_id == SILENT


async def test_what_a_signed_out_worker_left_is_rescued_without_waiting_for_its_silence(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def note() -> None: ...

    await ask(WATCHED.replace("1 day", "31 s"))
    async with working(app, heartbeat_interval=0.2):
        job_id = await app.enqueue(note, delay=3600)
        await ask(HELD.replace("state =", "scheduled_at = now(), state ="), SILENT, job_id)
        began = anyio.current_time()
        await seen.one(JobRescued, job_id=job_id)
        assert anyio.current_time() - began < 8, "the timeout is 30 s"
        await ended(app, job_id)


async def test_a_job_that_kills_its_worker_each_time_ends_as_a_dead_letter(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def note() -> None: ...

    @app.job
    async def cancelled() -> None: ...

    poison, asked = await app.enqueue(note), await app.enqueue(cancelled)
    await ask("UPDATE soniq.jobs SET attempt = 3")
    await ask(HELD, SILENT, poison)
    await ask(HELD, SILENT, asked)
    await ask("UPDATE soniq.jobs SET cancel_requested = true WHERE id = %s", asked)
    await ask(WATCHED)
    async with working(app, **QUICK):
        died = await seen.one(JobDied, job_id=poison)
        await seen.one(JobCancelled, job_id=asked)
    assert (died.attempt, died.reason) == (4, "all attempts used")
    letter = await app.get_job(poison)
    assert (letter.status, letter.attempt) == (JobStatus.DEAD_LETTER, 4)
    assert [a.outcome for a in letter.attempts] == ["worker_lost"]
    assert (await app.get_job(asked)).status is JobStatus.CANCELLED


async def test_a_living_worker_is_never_robbed(app: Soniq, seen: Seen) -> None:
    @app.job
    async def hold() -> None:
        await anyio.sleep(2.5)

    job_id = await app.enqueue(hold)
    async with working(app, **QUICK), working(app, **QUICK):
        job = await ended(app, job_id)
    assert (job.attempt, len(seen.of(JobStarted)), seen.of(JobRescued)) == (1, 1, [])


async def test_after_a_crash_of_the_server_the_living_keep_their_jobs_and_the_dead_lose_them(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    """A crash empties the unlogged tables: everybody looks dead, until the first heartbeat."""

    @app.job
    async def hold() -> None:
        await anyio.sleep(1.5)

    @app.job
    async def orphan() -> None: ...

    await ask(WATCHED)
    held = await app.enqueue(hold)
    quick = QUICK | {"heartbeat_interval": 0.3}
    async with working(app, **quick), working(app, **quick):
        await seen.one(JobStarted)
        left = await app.enqueue(orphan, delay=3600)
        await ask("TRUNCATE soniq.workers, soniq.watch, soniq.leaders")
        await ask(HELD.replace("state =", "scheduled_at = now(), state ="), SILENT, left)
        await seen.one(JobRescued, job_id=left)
        # By the database's clock: the watch may begin with a statement that was sent just before.
        ((since,),) = await ask("SELECT since FROM soniq.watch")
        (rescued,) = (await ended(app, left)).attempts
        assert rescued.ended_at - since >= timedelta(seconds=1), "the time of grace was not over"
        assert (await ended(app, held)).attempt == 1

        async def both() -> bool:
            return await ask("SELECT count(*) FROM soniq.workers") == [(2,)]

        await eventually(both)
    assert len(seen.of(JobStarted, job_id=held)) == 1
    assert seen.of(JobRescued, job_id=held) == []


async def test_the_lease_of_the_leader_passes_on_when_it_resigns(app: Soniq, ask: Ask) -> None:
    async def leader() -> str | None:
        rows = await ask("SELECT CAST(worker_id AS text) FROM soniq.leaders")
        return rows[0][0] if rows else None

    async with working(app) as first:

        async def led_by_first() -> bool:
            return await leader() == first.worker.id

        await eventually(led_by_first)
        async with working(app, **QUICK) as second:
            await first.stop()

            async def led_by_second() -> bool:
                return await leader() == second.worker.id

            await eventually(led_by_second, 5)
    assert await leader() is None


async def test_the_lease_of_the_leader_passes_on_when_it_dies(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def note() -> None: ...

    await ask("INSERT INTO soniq.leaders VALUES ('upkeep', %s, now() + interval '0.7 s')", SILENT)
    async with working(app, **QUICK) as hand:

        async def leads() -> bool:
            rows = await ask("SELECT CAST(worker_id AS text) FROM soniq.leaders")
            return rows == [(hand.worker.id,)]

        assert not await leads()
        await eventually(leads, 5)
        job_id = await app.enqueue(note, delay=0.3)
        await seen.one(JobFinished, job_id=job_id)


async def test_the_leader_drops_what_was_kept_long_enough_and_makes_room_ahead(
    app: Soniq, ask: Ask
) -> None:
    await ask(
        "CREATE TABLE soniq.history_20200101 PARTITION OF soniq.history"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')"
    )
    insert = (
        "INSERT INTO soniq.dead_letters (id, task, queue, args, priority, attempt, max_attempts,"
        " scheduled_at, created_at, died_at, reason)"
        " SELECT gen_random_uuid(), 't', 'q', '{}', 1, 1, 1, now(), now(),"
        " now() - CAST(%s AS interval), 'x' FROM generate_series(1, %s)"
    )
    await ask(insert, "3 hours", 1500)
    await ask(insert, "1 hour", 2)

    async def parts() -> list[str]:
        return [
            name
            for (name,) in await ask(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = CAST('soniq.history' AS regclass)"
            )
        ]

    async with working(app, dead_letter_ttl=7200):

        async def gone() -> bool:
            letters = await ask("SELECT count(*) FROM soniq.dead_letters")
            return "history_20200101" not in await parts() and letters == [(2,)]

        await eventually(gone)
    (tomorrow,) = (await ask("SELECT 'history_' || to_char(now() + '1 day', 'YYYYMMDD')"))[0]
    assert tomorrow in await parts()
