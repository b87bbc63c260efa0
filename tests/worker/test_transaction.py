"""A handler that ends its job within its own transaction: both, or neither."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from soniq import Soniq
from soniq.events import JobFinished, JobRetried, JobStarted, LeaseLost
from soniq.job import JobContext
from soniq.job.record import JobStatus

from .conftest import Ask, Seen, run_once, working

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ledger(ask: Ask) -> Callable[[], Any]:
    """A table of the handler's, and what is in it."""
    await ask("CREATE TABLE IF NOT EXISTS public.ledger (entry text)")
    await ask("TRUNCATE public.ledger")

    async def entries() -> list[str]:
        return [entry for (entry,) in await ask("SELECT entry FROM public.ledger ORDER BY 1")]

    return entries


Body = Callable[[JobContext], None]


def written(app: Soniq, kind: str, *, inside: Body = lambda ctx: None, after: Body) -> None:
    """Declare `write`, which enters something into the ledger in the transaction of its job."""
    sql = b"INSERT INTO public.ledger VALUES ('written')"
    if kind == "async":

        @app.job(name="write", retry_delay=3600)
        async def write_async(ctx: JobContext) -> None:
            async with ctx.transaction() as conn:
                await conn.execute(sql)
                inside(ctx)
            after(ctx)
    else:

        @app.job(name="write", retry_delay=3600)
        def write_sync(ctx: JobContext) -> None:
            with ctx.transaction() as conn:
                conn.execute(sql)
                inside(ctx)
            after(ctx)


def nothing(ctx: JobContext) -> None: ...


def fail(ctx: JobContext) -> None:
    raise ValueError("no")


KINDS = pytest.mark.parametrize("kind", ["async", "sync"])


@KINDS
async def test_writes_and_completion_commit_together(
    app: Soniq, seen: Seen, ledger: Any, kind: str
) -> None:
    written(app, kind, after=nothing)
    job_id = await app.enqueue("write")
    await run_once(app)
    assert await ledger() == ["written"]
    job = await app.get_job(job_id)
    assert (job.status, job.attempt) == (JobStatus.DONE, 1)
    assert len(seen.of(JobFinished)) == 1
    assert seen.of(LeaseLost) == []


@KINDS
async def test_an_error_within_the_block_undoes_both(
    app: Soniq, seen: Seen, ledger: Any, kind: str
) -> None:
    written(app, kind, inside=fail, after=nothing)
    job_id = await app.enqueue("write")
    await run_once(app)
    assert await ledger() == []
    job = await app.get_job(job_id)
    assert (job.status, job.last_error) == (JobStatus.SCHEDULED, "ValueError: no")
    assert len(seen.of(JobRetried)) == 1


@KINDS
async def test_an_error_after_the_block_undoes_nothing(
    app: Soniq, seen: Seen, ledger: Any, kind: str
) -> None:
    written(app, kind, after=fail)
    job_id = await app.enqueue("write")
    await run_once(app)
    assert await ledger() == ["written"]
    assert (await app.get_job(job_id)).status is JobStatus.DONE
    assert len(seen.of(JobFinished)) == 1
    assert seen.of(JobRetried) == []


@KINDS
async def test_a_stale_attempt_commits_neither(
    app: Soniq, seen: Seen, ledger: Any, ask: Ask, kind: str
) -> None:
    """The job was rescued meanwhile, and is at its second attempt somewhere else."""
    gate, inside = threading.Event(), anyio.Event()
    if kind == "async":

        @app.job(name="write")
        async def write_async(ctx: JobContext) -> None:
            async with ctx.transaction() as conn:
                await conn.execute(b"INSERT INTO public.ledger VALUES ('written')")
                while not gate.is_set():
                    await anyio.sleep(0.005)
    else:

        @app.job(name="write")
        def write_sync(ctx: JobContext) -> None:
            with ctx.transaction() as conn:
                conn.execute(b"INSERT INTO public.ledger VALUES ('written')")
                gate.wait(20)

    app.bus.subscribe(JobStarted, lambda event: inside.set())
    job_id = await app.enqueue("write")
    try:
        async with working(app):
            await inside.wait()
            await ask("UPDATE soniq.jobs SET attempt = 2, worker_id = gen_random_uuid()")
            gate.set()
            await seen.one(LeaseLost, job_id=job_id)
    finally:
        gate.set()
    assert await ledger() == []
    job = await app.get_job(job_id)
    assert (job.status, job.attempt, job.attempts) == (JobStatus.PROCESSING, 2, ())
    assert seen.of(JobFinished) == []


async def test_a_timeout_after_the_block_undoes_nothing_and_is_no_lost_lease(
    app: Soniq, seen: Seen, ledger: Any
) -> None:
    @app.job(timeout=0.3)
    async def write(ctx: JobContext) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(b"INSERT INTO public.ledger VALUES ('written')")
        await anyio.sleep(30)

    job_id = await app.enqueue(write)
    await run_once(app)
    assert await ledger() == ["written"]
    assert (await app.get_job(job_id)).status is JobStatus.DONE
    assert seen.of(LeaseLost) == []


async def test_a_timeout_within_the_block_undoes_both(app: Soniq, ledger: Any) -> None:
    @app.job(timeout=0.3, max_retries=0)
    async def write(ctx: JobContext) -> None:
        async with ctx.transaction() as conn:
            await conn.execute(b"INSERT INTO public.ledger VALUES ('written')")
            await anyio.sleep(30)

    job_id = await app.enqueue(write)
    await run_once(app)
    assert await ledger() == []
    assert (await app.get_job(job_id)).attempts[0].outcome == "timed_out"


async def test_threads_that_open_their_first_transaction_at_once_leave_no_connection_behind(
    app: Soniq, ledger: Any, ask: Ask
) -> None:
    """Two threads could each make the pool for `def` handlers; one of the two was never closed."""
    together = threading.Barrier(5)

    @app.job
    def write(ctx: JobContext) -> None:
        together.wait(20)
        with ctx.transaction() as conn:
            conn.execute(b"INSERT INTO public.ledger VALUES ('written')")

    async def others() -> int:
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return int((await ask(sql))[0][0])

    before = await others()
    for _ in range(5):
        await app.enqueue(write)
    await run_once(app, concurrency=5)
    await app.close()
    assert len(await ledger()) == 5
    with anyio.fail_after(5):
        while await others() > before:
            await anyio.sleep(0.01)
