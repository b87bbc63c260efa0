"""When a worker looks for work: by notification, by the clock, and by polling alone."""

from __future__ import annotations

from typing import Any

import anyio
import psycopg
import pytest

from soniq import Soniq
from soniq.events import JobFinished, JobStarted, Listening
from soniq.job import JobContext
from soniq.policy.waking import Waking

from .conftest import Ask, Seen, ended, eventually, idle, outside, run_once, working

pytestmark = pytest.mark.anyio


@pytest.fixture
def starts(app: Soniq) -> dict[str, float]:
    """Seconds from each job's moment to the call of its handler, by the clock of the database."""
    found: dict[str, float] = {}

    @app.job(name="note")
    async def note(ctx: JobContext) -> None:
        found[ctx.job_id] = 0.0

    return found


async def lateness(ask: Ask, job_id: str) -> float:
    sql = "SELECT CAST(extract(epoch FROM started_at - scheduled_at) AS float) FROM soniq.history"
    ((seconds,),) = await ask(f"{sql} WHERE id = %s", job_id)
    return float(seconds)


@pytest.mark.usefixtures("starts")
async def test_an_idle_worker_starts_a_fresh_job_within_milliseconds(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    async with working(app):
        await idle(ask)
        late = []
        for _ in range(10):
            job_id = await app.enqueue("note")
            await seen.one(JobFinished, job_id=job_id)
            late.append(await lateness(ask, job_id))
            await idle(ask)
    assert sorted(late)[4] < 0.05


@pytest.mark.usefixtures("starts")
async def test_without_notifications_polling_alone_finds_every_job(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    quiet = app.settings.with_(notify="off")
    async with Soniq(quiet.database_url, notify="off") as silent:

        @silent.job(name="note")
        async def note() -> None: ...

        async with working(app, notify="off", poll_interval=0.3):
            await seen.one(Listening)
            for _ in range(3):
                job_id = await silent.enqueue(note)
                await seen.one(JobFinished, seconds=5, job_id=job_id)
            assert await ask("SELECT count(*) FROM soniq.workers WHERE idle") == [(0,)]


async def test_a_busy_worker_calls_notifications_off_and_asks_again_when_idle(
    app: Soniq, ask: Ask, database_url: str
) -> None:
    @app.job
    async def note() -> None:
        await anyio.sleep(0.005)

    heard: list[str] = []
    with psycopg.connect(database_url, autocommit=True) as ear:
        ear.execute(b"LISTEN soniq")
        async with working(app, concurrency=2, prefetch=0):
            await idle(ask)
            await app.enqueue_many(note, [{}] * 100)
            await idle(ask, 0)
            busy = [await app.enqueue(note) for _ in range(5)]
            assert await ask("SELECT count(*) > 20 FROM soniq.jobs") == [(True,)]
            await idle(ask)
            again = await app.enqueue(note)
            await ended(app, again)
            heard += [n.payload for n in ear.notifies(timeout=0.2)]
    told = [payload for payload in heard if payload.startswith("q:")]
    # One for the bulk that found it idle, one for the last; none for those that found it busy.
    assert told == ["q:default", "q:default"], (told, len(busy))


@pytest.mark.usefixtures("starts")
async def test_a_worker_that_a_stream_keeps_busy_sees_other_queues(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    """Nobody notifies it of them, and it does not look before each claim from the stream."""

    async def stream() -> None:
        while True:
            await app.enqueue("note")

    async with working(app), anyio.create_task_group() as streams:
        await idle(ask)
        for _ in range(4):
            streams.start_soon(stream)
        await idle(ask, 0)
        for _ in range(3):
            job_id = await app.enqueue("note", queue="other")
            await seen.one(JobFinished, seconds=5, job_id=job_id)
        assert await ask("SELECT count(*) FROM soniq.workers WHERE idle") == [(0,)]
        streams.cancel_scope.cancel()


async def test_nobody_is_notified_while_nobody_is_idle(
    app: Soniq, database_url: str, ask: Ask
) -> None:
    @app.job
    async def note() -> None: ...

    with psycopg.connect(database_url, autocommit=True) as ear:
        ear.execute(b"LISTEN soniq")
        await app.enqueue(note)
        await app.enqueue_many(note, [{}] * 3)
        await app.enqueue(note, delay=1)
        assert [n.payload for n in ear.notifies(timeout=0.1)] == []
        await ask(
            "INSERT INTO soniq.workers (id, name, queues, concurrency, version, idle)"
            " VALUES (gen_random_uuid(), 'x', '{other}', 1, '0', true)"
        )
        await app.enqueue(note)
        await app.enqueue(note, delay=3600)
        assert [n.payload for n in ear.notifies(timeout=0.1)] == []
        await app.enqueue(note, queue="other")
        await app.enqueue_many(note, [{}] * 5, queue="other")
        heard = [n.payload for n in ear.notifies(timeout=0.1)]
        assert heard == ["q:other", "q:other"], "one for each statement"


@pytest.mark.usefixtures("starts")
async def test_a_scheduled_job_starts_at_its_moment_on_an_idle_worker(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    late = []
    async with working(app):
        await idle(ask)
        for delay in (0.3, 0.3, 0.5):
            job_id = await app.enqueue("note", delay=delay)
            await seen.one(JobFinished, job_id=job_id)
            late.append(await lateness(ask, job_id))
    assert min(late) >= 0
    assert sorted(late)[1] < 0.1, "the median: this machine has other work too"


@pytest.mark.usefixtures("starts")
async def test_an_earlier_job_is_not_kept_waiting_by_a_later_one(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    async with working(app):
        await idle(ask)
        later = await app.enqueue("note", delay=1.2)
        sooner = await app.enqueue("note", delay=0.3)
        await seen.one(JobFinished, job_id=later)
        for job_id in (sooner, later):
            assert 0 <= await lateness(ask, job_id) < 0.3


@pytest.mark.usefixtures("starts")
@pytest.mark.parametrize("notify", ["auto", "off"])
async def test_a_scheduled_job_starts_soon_after_its_moment_on_a_busy_or_deaf_worker(
    app: Soniq, seen: Seen, ask: Ask, notify: str
) -> None:
    @app.job
    async def breed(ctx: JobContext, left: int) -> None:
        await anyio.sleep(0.002)
        if left:
            await app.enqueue(breed, left - 1)

    async with working(app, notify=notify, poll_interval=0.1, concurrency=3):
        await app.enqueue(breed, 200)
        job_id = await app.enqueue("note", delay=0.3)
        await seen.one(JobFinished, job_id=job_id)
        assert 0 <= await lateness(ask, job_id) < 0.5


@pytest.mark.usefixtures("starts")
async def test_what_is_already_due_starts_at_once(app: Soniq, seen: Seen, ask: Ask) -> None:
    from datetime import UTC, datetime, timedelta

    async with working(app):
        await idle(ask)
        began = anyio.current_time()
        past = datetime.now(UTC) - timedelta(days=1)
        await app.enqueue("note", scheduled_at=past)
        await seen.one(JobStarted)
        assert anyio.current_time() - began < 0.5


@pytest.mark.usefixtures("starts")
async def test_what_fell_due_while_nobody_worked_starts_with_the_first_worker(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    await app.enqueue("note", delay=3600)
    await ask("UPDATE soniq.jobs SET scheduled_at = now()")
    began = anyio.current_time()
    async with working(app):
        await seen.one(JobStarted)
    assert anyio.current_time() - began < 1.5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes seven seconds
async def test_a_long_poll_interval_makes_no_scheduled_job_late(
    anyio_backend: Any, database_url: str, ask: Ask
) -> None:
    """A worker is told of jobs due within 6 s only, and looked for the others at each poll."""
    async with Soniq(database_url, poll_interval=60) as app:

        @app.job
        async def note() -> None: ...

        async with working(app):
            await idle(ask)
            await anyio.sleep(0.5)  # the stager has looked and found nothing
            job_id = await app.enqueue(note, delay=6.3)
            await ended(app, job_id, 10)
        assert await lateness(ask, job_id) < 0.2


@pytest.mark.usefixtures("starts")
async def test_a_dead_listener_is_replaced_and_polling_covers_the_time_between(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query = 'LISTEN \"soniq\"'"
    )
    async with working(app, poll_interval=0.2):
        await seen.one(Listening, healthy=True)
        await idle(ask)
        assert await ask(kill) == [(True,)]
        await seen.one(Listening, healthy=False)
        job_id = await app.enqueue("note")
        await seen.one(JobFinished, job_id=job_id)
        await seen.some(2, Listening, healthy=True)
        await idle(ask)


async def test_many_queues_wake_a_worker_that_serves_all_and_only_those_that_serve_them(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    @app.job
    async def note(ctx: JobContext) -> str:
        return ctx.worker_id

    async with working(app, queues=("one",)) as first, working(app, queues=("two",)) as second:
        await idle(ask, 2)
        ids = {name: await app.enqueue(note, queue=name) for name in ("one", "two")}
        ran = {name: (await ended(app, job_id)).result for name, job_id in ids.items()}
    assert ran == {"one": first.worker.id, "two": second.worker.id}
    assert await ask("SELECT count(*) FROM soniq.workers") == [(0,)]


async def test_jobs_inserted_by_hand_are_found_by_the_poll(app: Soniq, ask: Ask) -> None:
    @app.job(name="hand")
    async def hand() -> None: ...

    async with working(app, poll_interval=0.2):
        await idle(ask)
        await ask("INSERT INTO soniq.jobs (id, task) VALUES (gen_random_uuid(), 'hand')")

        async def done() -> bool:
            return await ask("SELECT count(*) FROM soniq.history") == [(1,)]

        await eventually(done, 3)


async def test_a_job_whose_commit_comes_late_is_seen_without_a_notification(
    app: Soniq, ask: Ask, database_url: str
) -> None:
    """Enqueued while the worker was busy, committed after it went idle: nobody notifies it."""

    @app.job
    async def note() -> None: ...

    async with await outside(database_url) as other:
        async with other.transaction():
            job_id = await app.enqueue(note, connection=other)  # nobody is idle: no notification
            async with anyio.create_task_group():
                pass
            await run_once(app)
            hand_ = working(app, poll_interval=1)
            hand = await hand_.__aenter__()
            await idle(ask)
        assert (await ended(app, job_id, 5)).attempt == 1
        assert hand.code is None
        await hand_.__aexit__(None, None, None)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_worker_finds_what_was_stored_without_a_look_within_its_first_naps(
    app: Soniq, ask: Ask, sync: bool
) -> None:
    """Here the clients' clock stands still, so they never look again; in truth 20 ms pass."""
    app._app.waking = Waking(lambda: 0.0)

    @app.job
    async def note() -> None: ...

    async def enqueue() -> str:
        if sync:
            return await anyio.to_thread.run_sync(app.sync.enqueue, note)
        return await app.enqueue(note)

    unseen = await enqueue()  # nobody is there: remembered
    async with working(app, poll_interval=60):
        await ended(app, unseen)
        await idle(ask)
        assert (await ended(app, await enqueue(), 10)).attempt == 1
    await anyio.to_thread.run_sync(app.sync.close)


async def test_a_retry_is_begun_at_its_moment_whoever_leads(app: Soniq) -> None:
    """The worker whose job fails does not queue what is due: another does, and has to be told."""

    @app.job(queue="emails", max_retries=3, retry_delay=0.1)
    async def fail(ctx: JobContext) -> None:
        if ctx.attempt < 4:
            raise ValueError

    async with working(app, queues=["reports"]) as first:

        async def leads() -> bool:
            return first.worker.bench.leading

        await eventually(leads)
        async with working(app, queues=["emails"]):
            job = await ended(app, await app.enqueue(fail), 30)
    failed = [each.ended_at for each in job.attempts]
    began = [*(each.started_at for each in job.attempts[1:]), job.started_at]
    waits = [after - before for before, after in zip(failed, began, strict=True)]
    assert len(waits) == 3
    assert max(waits).total_seconds() < 2
