"""A job's life, and which job a worker takes next."""

from __future__ import annotations

import logging
import threading
from uuid import uuid4

import anyio
import pytest
from anyio import to_thread
from psycopg.conninfo import make_conninfo

from soniq import Soniq
from soniq.events import JobFinished, JobStarted
from soniq.job import JobContext
from soniq.job.record import JobStatus
from soniq.job.task import TaskRef
from soniq.store import claims
from soniq.worker.take import size_of

from . import plain
from .conftest import Ask, Seen, ended, eventually, idle, outside, run_once, working

pytestmark = pytest.mark.anyio


async def test_a_job_is_queued_then_processing_then_done_with_its_result(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    gate = anyio.Event()

    @app.job(queue="sums", tags=["a"])
    async def add(left: int, right: int) -> dict[str, int]:
        await gate.wait()
        return {"sum": left + right}

    job_id = await app.enqueue(add, 2, right=3)
    assert (await app.get_job(job_id)).status is JobStatus.QUEUED
    async with working(app) as hand:
        await seen.one(JobStarted, job_id=job_id)
        running = await app.get_job(job_id)
        assert (running.status, running.worker_id) == (JobStatus.PROCESSING, hand.worker.id)
        gate.set()
        finished = await seen.one(JobFinished, job_id=job_id)
    assert finished.attempt == 1
    job = await app.get_job(job_id)
    assert job.status is JobStatus.DONE
    assert job.result == {"sum": 5}
    assert (job.attempt, job.queue, job.tags) == (1, "sums", ("a",))
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.finished_at >= job.started_at >= job.created_at
    assert await ask("SELECT count(*) FROM soniq.jobs") == [(0,)]
    assert hand.code == 0
    assert hand.worker.processed == 1


async def test_def_handlers_run_in_threads_and_async_ones_on_the_loop(app: Soniq) -> None:
    @app.job
    def in_thread() -> int:
        return threading.get_ident()

    @app.job
    async def on_loop() -> int:
        return threading.get_ident()

    ids = [await app.enqueue(in_thread), await app.enqueue(on_loop)]
    await run_once(app)
    thread, loop = [await app.get_result(each) for each in ids]
    assert loop == threading.get_ident()
    assert thread != loop


async def test_the_context_is_injected_wherever_it_is_annotated(app: Soniq) -> None:
    @app.job
    async def first(ctx: JobContext, word: str) -> list[object]:
        return [ctx.job_id, ctx.attempt, ctx.max_attempts, ctx.queue, ctx.worker_id, word]

    @app.job
    def last(word: str, context: JobContext) -> list[object]:
        return [context.job_id, word]

    @app.job
    async def optional(word: str, ctx: JobContext | None = None) -> list[object]:
        return [ctx and ctx.job_id, word]

    tasks = [last, optional, app.job(plain.context_first), app.job(plain.context_last)]
    full = await app.enqueue(first, word="x")
    ids = [await app.enqueue(task, word="x") for task in tasks]
    worker = await run_once(app)
    assert await app.get_result(full) == [full, 1, 4, "default", worker.id, "x"]
    assert [await app.get_result(each) for each in ids] == [[each, "x"] for each in ids]


async def test_jobs_run_by_priority_then_moment_then_age(app: Soniq, ask: Ask) -> None:
    order: list[str] = []

    @app.job
    async def note(name: str) -> None:
        order.append(name)

    await app.enqueue(note, "third")
    await app.enqueue(note, "fourth")
    await app.enqueue(note, "last", priority=900)
    await app.enqueue(note, "first", priority=1)
    early = await app.enqueue(note, "second")
    await ask("UPDATE soniq.jobs SET scheduled_at = now() - interval '1 hour' WHERE id = %s", early)
    await run_once(app, concurrency=1, prefetch=0)  # one claim for each
    assert order == ["first", "second", "third", "fourth", "last"]


async def test_a_deep_queue_does_not_starve_a_shallow_one(app: Soniq) -> None:
    order: list[str] = []

    @app.job
    async def note(ctx: JobContext) -> None:
        order.append(ctx.queue)

    await app.enqueue_many(note, [{}] * 100, queue="deep")
    for _ in range(3):
        await app.enqueue(note, queue="shallow")
    await run_once(app, concurrency=2, prefetch=0)
    assert len(order) == 103
    assert [place for place, queue in enumerate(order) if queue == "shallow"][-1] < 12


async def test_a_worker_serves_only_its_queues(app: Soniq, ask: Ask) -> None:
    @app.job
    async def note() -> None: ...

    mine = await app.enqueue(note, queue="mine")
    other = await app.enqueue(note, queue="other")
    await run_once(app, queues=("mine",))
    assert (await app.get_job(mine)).status is JobStatus.DONE
    assert (await app.get_job(other)).status is JobStatus.QUEUED


async def test_jobs_of_unknown_tasks_stay_queued_and_are_warned_of_once(
    app: Soniq, caplog: pytest.LogCaptureFixture
) -> None:
    @app.job
    async def known(number: int) -> int:
        return number

    strangers = [await app.enqueue(TaskRef("stranger")) for _ in range(3)]
    other = await app.enqueue(TaskRef("another_stranger"))
    with caplog.at_level(logging.WARNING, logger="soniq.worker"):
        async with working(app, poll_interval=0.02):
            for number in range(5):  # each a new look at the queue, and a new rest
                job = await app.wait(await app.enqueue(known, number), timeout=10)
                assert job.result == number

            async def warned() -> bool:
                return "'another_stranger'" in caplog.text

            await eventually(warned)
    assert caplog.text.count("'stranger'") == 1
    assert caplog.text.count("'another_stranger'") == 1
    for each in [*strangers, other]:
        job = await app.get_job(each)
        assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)


async def test_run_once_ends_when_nothing_is_due(app: Soniq) -> None:
    @app.job
    async def note() -> None: ...

    @app.job(retry_delay=3600)
    async def fail() -> None:
        raise ValueError

    @app.job
    async def breed(generations: int) -> None:
        if generations:
            await app.enqueue(breed, generations - 1)

    ids = [await app.enqueue(note) for _ in range(30)]
    later = await app.enqueue(note, delay=3600)
    failing = await app.enqueue(fail)
    await app.enqueue(breed, 3)
    worker = await run_once(app, concurrency=3)
    assert worker.processed == 30 + 1 + 4
    assert {(await app.get_job(each)).status for each in ids} == {JobStatus.DONE}
    assert (await app.get_job(later)).status is JobStatus.SCHEDULED
    retry = await app.get_job(failing)
    assert (retry.status, retry.attempt) == (JobStatus.SCHEDULED, 1)


async def test_run_once_ends_on_an_empty_database_with_unknown_tasks_and_paused_queues(
    app: Soniq, ask: Ask
) -> None:
    @app.job
    async def note() -> None: ...

    assert (await run_once(app)).processed == 0
    stranger = await app.enqueue(TaskRef("stranger"))
    paused = await app.enqueue(note, queue="paused")
    await ask("INSERT INTO soniq.queues (name, paused) VALUES ('paused', true)")
    assert (await run_once(app)).processed == 0
    assert (await app.get_job(stranger)).status is JobStatus.QUEUED
    assert (await app.get_job(paused)).status is JobStatus.QUEUED


async def test_run_once_ends_although_its_last_ending_is_written_after_its_last_look(
    app: Soniq, database_url: str, ask: Ask
) -> None:
    """One run in ten of `--run-once` never ended.

    Nobody looked again when the last ending was written later than the fetcher's last look. Here a
    lock on the job's row makes it so.
    """
    gate, started = anyio.Event(), anyio.Event()

    @app.job
    async def note() -> None:
        started.set()
        await gate.wait()

    job_id = await app.enqueue(note)
    async with await outside(database_url) as other, anyio.create_task_group() as tasks:
        tasks.start_soon(run_once, app)
        await started.wait()
        async with other.transaction():
            await other.execute(b"SELECT FROM soniq.jobs FOR UPDATE")
            gate.set()
            await idle(ask)
    assert (await app.get_job(job_id)).status is JobStatus.DONE


async def test_run_once_runs_what_fell_due_while_no_worker_was_there(app: Soniq, ask: Ask) -> None:
    """A cron line runs `soniq worker --run-once` each minute: whatever is due must run.

    Jobs whose moment had passed are still `scheduled` until somebody stages them, and a worker that
    ended before its leader's first look left them lying.
    """

    @app.job
    async def note() -> None: ...

    ids = [await app.enqueue(note, delay=3600) for _ in range(3)]
    await ask("UPDATE soniq.jobs SET scheduled_at = now() - interval '1 second'")
    # Another worker led a moment ago and is gone: its lease must not keep us from what is due.
    await ask(
        "INSERT INTO soniq.leaders VALUES ('upkeep', gen_random_uuid(), now() + interval '15 s')"
    )
    await run_once(app)
    assert {(await app.get_job(each)).status for each in ids} == {JobStatus.DONE}


async def test_a_paused_queue_is_left_alone_until_it_is_resumed(app: Soniq, ask: Ask) -> None:
    @app.job
    async def note() -> None: ...

    await ask("INSERT INTO soniq.queues (name, paused) VALUES ('held', true)")
    await ask("INSERT INTO soniq.queues (name, paused, paused_until) VALUES ('over', true, now())")
    held = await app.enqueue(note, queue="held")
    async with working(app, poll_interval=0.05):
        over = await app.enqueue(note, queue="over")
        free = await app.enqueue(note)
        for each in (free, over):
            assert (await ended(app, each)).status is JobStatus.DONE
        assert (await app.get_job(held)).status is JobStatus.QUEUED
        await ask("UPDATE soniq.queues SET paused = false")
        assert (await ended(app, held)).status is JobStatus.DONE


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_never_more_than_concurrency_run_at_once(app: Soniq, kind: str) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def enter(step: int) -> None:
        nonlocal now, most
        with lock:
            now += step
            most = max(most, now)

    if kind == "async":

        @app.job(name="hold")
        async def hold() -> None:
            enter(1)
            await anyio.sleep(0.01)
            enter(-1)
    else:

        @app.job(name="hold")
        def hold() -> None:
            enter(1)
            threading.Event().wait(0.01)
            enter(-1)

    await app.enqueue_many("hold", [{}] * 50)
    await run_once(app, concurrency=5)
    assert most == 5


async def test_fewer_threads_than_slots_still_run_every_job(app: Soniq) -> None:
    lock, now, most = threading.Lock(), 0, 0

    @app.job
    def hold() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.01)
        with lock:
            now -= 1

    await app.enqueue_many(hold, [{}] * 50)
    worker = await run_once(app, concurrency=10, threads=5)
    assert worker.processed == 50
    assert most == 5


@pytest.mark.parametrize("queues", [["one"], ["one", "two"]])
async def test_large_arguments_are_not_claimed_ahead_beyond_the_bound(
    app: Soniq, queues: list[str]
) -> None:
    most = 0

    @app.job
    async def take(text: str) -> None:
        nonlocal most
        most = max(most, len(hand.worker.bench.ready))

    rows = [{"text": "x" * 1000}] * 200
    for queue in queues:
        await app.enqueue_many(take.options(queue=queue), rows)
    async with working(app, concurrency=2, prefetch_bytes=10_000) as hand:

        async def drained() -> bool:
            return hand.worker.processed == 200 * len(queues)

        await eventually(drained)
    assert most <= 2 + 10


async def test_the_bound_counts_bytes_as_the_database_does(app: Soniq, ask: Ask) -> None:
    """It counted characters: of Chinese texts three times as much was held as was allowed."""

    @app.job
    async def take(text: str) -> None: ...

    texts = ["x" * 1000, "\N{EURO SIGN}" * 1000, "\N{PILE OF POO}" * 1000]
    await app.enqueue_many(take, [{"text": text} for text in texts])
    claim = claims.claim(str(uuid4()), {"default": 3}, [take.name])
    jobs = await app._database.run(claim.__iter__)
    assert await ask("SELECT sum(octet_length(args::text)) FROM soniq.jobs") == [(size_of(jobs),)]


async def test_two_workers_drain_two_thousand_jobs_without_a_duplicate(
    app: Soniq, ask: Ask
) -> None:
    runs: list[int] = []

    @app.job
    async def note(number: int) -> None:
        runs.append(number)
        await anyio.sleep(0)

    await app.enqueue_many(note, [{"number": number} for number in range(2000)])
    async with working(app) as one, working(app) as two:

        async def drained() -> bool:
            return await ask("SELECT count(*) FROM soniq.jobs") == [(0,)]

        await eventually(drained, 30, 0.05)
    assert sorted(runs) == list(range(2000))
    assert one.worker.processed > 0
    assert two.worker.processed > 0
    assert await ask("SELECT count(*) FROM soniq.history WHERE attempt = 1") == [(2000,)]


async def test_a_quick_loop_of_jobs_lets_the_loop_breathe(app: Soniq) -> None:
    """Handlers that never wait must not keep heartbeats and signals from running."""
    longest, before, over = 0.0, anyio.current_time(), False

    @app.job
    async def note() -> None: ...

    async def watch() -> None:
        nonlocal longest, before
        while not over:
            await anyio.sleep(0)
            now = anyio.current_time()
            longest, before = max(longest, now - before), now

    await app.enqueue_many(note, [{}] * 1000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await to_thread.run_sync(lambda: None)
        await run_once(app)
        over = True
    assert longest < 0.5


async def test_a_role_that_may_not_do_the_upkeep_is_told_once(
    app: Soniq, ask: Ask, database_url: str, caplog: pytest.LogCaptureFixture, worker_name: str
) -> None:
    """A worker whose role does not own the schema warned every second, for ever."""
    role = f"soniq_modest_{worker_name}"
    await ask(f"CREATE ROLE {role} LOGIN")
    await ask(f"GRANT USAGE ON SCHEMA soniq TO {role}")
    await ask(f"GRANT ALL ON ALL TABLES IN SCHEMA soniq TO {role}")
    # There is something to do: a partition that was made ahead is missing.
    ((last,),) = await ask(
        "SELECT max(relname) FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid "
        "WHERE inhparent = CAST('soniq.history' AS regclass) AND relname < 'history_d'"
    )
    await ask(f"DROP TABLE soniq.{last}")
    try:
        async with Soniq(make_conninfo(database_url, user=role)) as modest:

            @modest.job
            async def note() -> str:
                return "noted"

            with caplog.at_level(logging.DEBUG, logger="soniq.worker"):
                async with working(modest):
                    job_id = await modest.enqueue(note)
                    assert (await modest.wait(job_id, timeout=20)).result == "noted"
                    with anyio.fail_after(20):
                        while len(told := _of_upkeep(caplog)) < 2:
                            await anyio.sleep(0.02)
    finally:
        await ask(f"DROP OWNED BY {role}")
        await ask(f"DROP ROLE {role}")
    assert [record.levelno for record in told[:2]] == [logging.WARNING, logging.DEBUG]
    assert "whose role owns the schema" in told[0].getMessage()


def _of_upkeep(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "upkeep" in record.getMessage()]
