"""What users write must be clean under mypy strict and pyright."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from soniq import AsyncTask, Job, JobStatus, Schedule, Soniq, SoniqSync, SyncTask, TaskRef
from soniq.integrations.sqlalchemy import within
from soniq.job import JobContext
from soniq.schedules import daily, every, weekly

eq = Soniq(database_url="postgresql://localhost/myapp", concurrency=5)
sync = SoniqSync(database_url="postgresql://localhost/myapp")


@eq.job(queue="emails", max_retries=3, retry_delay=[5, 30, 300])
async def send_welcome_email(user_id: int, ctx: JobContext) -> None: ...


@eq.job(queue="emails", max_retries=5, retry_delay=10, retry_backoff=True, retry_max_delay=3600)
async def send_email_with_backoff(user_id: int) -> None: ...


@eq.job
async def bare(a: int, b: str = "") -> int:
    return a


@eq.job
def bare_context_first(ctx: JobContext, a: int) -> str:
    return str(ctx.attempt + a)


@eq.job("named", timeout=timedelta(minutes=1), retry_on=KeyError, executor="thread")
def with_context_first(ctx: JobContext, a: int) -> str:
    return str(ctx.attempt + a)


@eq.periodic(daily().at("09:00"), timezone="Europe/Berlin", queue="reports", retry_delay=[1, 2])
async def report(day: str = "today") -> int:
    return len(day)


@eq.periodic(every=timedelta(minutes=5), args={"a": 1}, catch_up="all", overlap="skip")
@eq.periodic("*/5 * * * *", args=(1,), name="five", jitter=30)
@eq.job()
async def twice(ctx: JobContext, a: int) -> None: ...


@sync.periodic(every=every(5).minutes())
def poll(ctx: JobContext) -> None: ...


@sync.job
def plain(a: int) -> int:
    return a


@sync.job()
def context_first(ctx: JobContext, a: int) -> int:
    return a


async def schedules() -> None:
    assert_type(await report.enqueue(day="x"), str)
    assert_type(await report("x"), int)
    made = await eq.scheduler.add(
        twice, weekly().on("monday"), args=(1,), overlap="queue", tags=["x"]
    )
    assert_type(made, Schedule)
    assert_type(await eq.scheduler.update(made.name, every=60, dedup_key="k"), Schedule)
    assert_type(await eq.scheduler.preview(made.name, 3), list[datetime])
    assert_type(sync.scheduler.list(task=poll), list[Schedule])
    assert_type(sync.scheduler.run_now("x"), str)
    poll.enqueue()


async def recipe(user_id: int, name: str) -> None:
    await eq.enqueue(send_welcome_email, user_id=user_id)
    await eq.ensure_initialized()
    async with eq.backend.acquire() as conn:
        async with conn.transaction():
            user_id = await conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name)
            await eq.enqueue(send_welcome_email, connection=conn, user_id=user_id)
            await eq.within(conn).enqueue_many(bare, [(1, "x"), {"a": 1}])


async def the_rest() -> None:
    assert_type(await send_email_with_backoff.enqueue(1), str)
    assert_type(await send_email_with_backoff.enqueue(user_id=1), str)
    assert_type(await bare.enqueue(1, b="x"), str)
    assert_type(await bare.options(queue="x", delay=5).enqueue(1), str)
    assert_type(await with_context_first.enqueue(1), str)
    assert_type(await bare_context_first.enqueue(1), str)
    assert_type(await bare(1), int)
    await eq.enqueue(bare.options(queue="x"), 1)
    await eq.enqueue("named", a=1)
    await eq.enqueue(TaskRef("elsewhere"), a=1)
    await eq.schedule(bare, datetime.now(UTC), 1)
    await eq.schedule(bare, 5, 1)
    await eq.enqueue_many([bare.call(1), send_email_with_backoff.call(user_id=1)])
    job = await eq.wait(await bare.enqueue(1), timeout=5)
    assert_type(job, Job)
    assert_type(job.status, JobStatus)
    assert_type(await eq.list_jobs("queued", task=bare), list[Job])
    async with eq.start_worker(concurrency=2, queues=["emails"]) as worker:
        assert_type(worker.id, str)
    assert_type(await eq.run_worker(run_once=True), int)
    assert_type((await eq.dead_letter.get("x")).job, Job)


def in_sync_code() -> None:
    assert_type(plain.enqueue(1), str)
    assert_type(context_first.enqueue(a=1), str)
    assert_type(plain(1), int)
    with sync.backend.acquire() as conn, conn.transaction():
        sync.enqueue(plain, connection=conn, a=conn.fetchval("SELECT $1", 1))
    assert_type(eq.sync.get_job("x"), Job)
    with sync.start_worker() as worker:
        assert_type(worker.processed, int)


def names(task: AsyncTask[[int], str], other: SyncTask[[int], int]) -> list[str]:
    return [task.name, other.name]


names(with_context_first, plain)


@eq.before_job
async def before(ctx: JobContext) -> None: ...


@sync.middleware
def around(ctx: JobContext, call_next: object) -> object:
    return call_next


async def with_sqlalchemy(session: Session, async_session: AsyncSession) -> None:
    assert_type(within(eq, session), SoniqSync)
    assert_type(within(sync, session), SoniqSync)
    assert_type(within(eq, async_session), Soniq)
    await eq.enqueue(bare, 1, connection=async_session)
