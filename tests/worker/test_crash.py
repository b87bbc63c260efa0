"""Processes that are killed, a server that crashes, a network that swallows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from benchmarks.chaos.road import Road
from soniq import Soniq
from soniq.db.embedded import EmbeddedServer
from soniq.events import JobDied, JobFinished, JobRescued, JobStarted, LeaseLost, WorkerFenced
from soniq.job import JobContext
from soniq.job.record import JobStatus
from soniq.job.task import TaskRef

from .conftest import Ask, Seen, ended, eventually, idle, working

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

# Tests of several seconds in which the loop does not matter.
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"heartbeat_timeout": 1.0, "heartbeat_interval": 0.2, "poll_interval": 0.2}


@asynccontextmanager
async def process(url: str, backend: str, **settings: Any) -> AsyncIterator[Process]:
    """A worker in a process of its own, killed at the latest at the end of the block."""
    command = [sys.executable, "-m", "tests.worker.process", url, json.dumps(settings), backend]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    async with await anyio.open_process(
        command, cwd=ROOT, env=env, stdout=None, stderr=None
    ) as started:
        try:
            yield started
        finally:
            if started.returncode is None:
                started.kill()


@pytest.mark.parametrize(("anyio_backend", "name"), [("asyncio", "hold"), ("trio", "hold_thread")])
async def test_a_job_whose_worker_is_killed_runs_again_at_another(
    app: Soniq, seen: Seen, ask: Ask, anyio_backend: str, database_url: str, name: str
) -> None:
    @app.job(name=name)
    async def again(ctx: JobContext) -> int:
        return ctx.attempt

    job_id = await app.enqueue(name, queue="killed")
    async with process(database_url, anyio_backend, **QUICK) as victim:

        async def runs() -> str | None:
            job = await app.get_job(job_id)
            return job.worker_id if job.status is JobStatus.PROCESSING else None

        lost = await eventually(runs, 30)
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
    assert (await app.get_job(job_id)).status is JobStatus.PROCESSING
    async with working(app, **QUICK) as hand:
        rescued = await seen.one(JobRescued, job_id=job_id)
        job = await ended(app, job_id)
    assert (job.status, job.attempt, job.worker_id) == (JobStatus.DONE, 2, hand.worker.id)
    assert job.result == 2
    assert rescued.worker_id == lost
    assert [(a.attempt, a.outcome, a.worker_id) for a in job.attempts] == [(1, "worker_lost", lost)]


@ON_ASYNCIO
async def test_a_job_that_kills_its_process_each_time_becomes_a_dead_letter_that_says_why(
    app: Soniq, seen: Seen, ask: Ask, anyio_backend: str, database_url: str
) -> None:
    poison = await app.enqueue(TaskRef("poison").options(max_retries=1))
    async with working(app, **QUICK):  # it does not have the task, and takes care all the same
        for attempt in (1, 2):
            async with process(database_url, anyio_backend, **QUICK) as victim:
                with anyio.fail_after(40):
                    await victim.wait()
                assert victim.returncode == (1 if attempt == 1 else -signal.SIGKILL)
        died = await seen.one(JobDied, job_id=poison)
    assert died.attempt == 2
    assert [event.attempt for event in seen.of(JobRescued)] == [1]
    letter = await app.get_job(poison)
    assert (letter.status, letter.attempt) == (JobStatus.DEAD_LETTER, 2)
    assert [(a.attempt, a.outcome) for a in letter.attempts] == [
        (1, "worker_lost"),
        (2, "worker_lost"),
    ]
    assert len({a.worker_id for a in letter.attempts}) == 2
    assert "WorkerLost" in (letter.last_error or "")


async def test_a_worker_that_loses_the_network_stops_its_jobs_before_others_may_take_them(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    """Nothing is refused and nothing is answered: the worker must notice by itself."""
    # A second between the fence and the rescue: a busy machine may be late with either.
    steady = QUICK | {"heartbeat_timeout": 3.0, "heartbeat_interval": 1.0}
    stopped: list[float] = []
    started_again: list[float] = []
    app.bus.subscribe(JobStarted, lambda event: started_again.append(anyio.current_time()))

    @app.job(name="hold")
    async def again() -> None: ...

    with Road(database_url) as road:
        async with Soniq(road.url) as far:
            far_seen = Seen(far)

            @far.job(name="hold")
            async def hold() -> None:
                try:
                    await anyio.sleep(60)
                finally:
                    stopped.append(anyio.current_time())

            job_id = await app.enqueue("hold")
            async with working(far, **steady) as hand:
                await far_seen.one(JobStarted)
                async with working(app, **steady):
                    await idle(ask, 2)
                    road.block()
                    fenced = await far_seen.one(WorkerFenced, worker_id=hand.worker.id)
                    job = await ended(app, job_id)
                road.clear()
                await far_seen.one(LeaseLost, job_id=job_id, seconds=20)
    assert fenced.seconds > 1.9
    assert (job.status, job.attempt) == (JobStatus.DONE, 2)
    assert stopped[0] < started_again[0]
    assert far_seen.of(JobFinished) == []


async def test_a_worker_whose_network_comes_back_in_time_keeps_its_jobs(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    with Road(database_url) as road:
        async with Soniq(road.url) as far:
            far_seen = Seen(far)

            @far.job
            async def hold() -> str:
                await anyio.sleep(1)
                return "done"

            job_id = await far.enqueue(hold)
            slow = QUICK | {"heartbeat_timeout": 6.0}
            async with working(far, **slow):
                await far_seen.one(JobStarted)
                road.block()
                await anyio.sleep(1.2)
                road.clear()
                await far_seen.one(JobFinished, job_id=job_id)
    assert far_seen.of(WorkerFenced) == []
    job = await app.get_job(job_id)
    assert (job.status, job.attempt, job.result) == (JobStatus.DONE, 1, "done")


# -- a crash of PostgreSQL


@pytest.fixture
def private_server(anyio_backend: str) -> Iterator[tuple[EmbeddedServer, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="soniq-crash-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "server")
    server.start()
    try:
        yield server, folder
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


@ON_ASYNCIO
async def test_after_a_real_crash_of_postgresql_running_jobs_go_on_and_none_runs_twice(
    anyio_backend: str, private_server: tuple[EmbeddedServer, Path]
) -> None:
    """Immediate shutdown: no checkpoint, unlogged tables empty, every connection gone."""
    server, folder = private_server
    (pidfile,) = folder.rglob("postmaster.pid")
    async with Soniq(server.url()) as app:
        await app.setup()
        seen = Seen(app)
        release = anyio.Event()

        @app.job
        async def hold() -> str:
            await release.wait()
            return "done"

        @app.job
        async def note() -> None: ...

        steady = QUICK | {"heartbeat_timeout": 20.0, "heartbeat_interval": 0.2}
        ids = [await app.enqueue(hold) for _ in range(4)]
        async with working(app, concurrency=2, **steady), working(app, concurrency=2, **steady):
            await seen.some(4, JobStarted)
            postmaster = int(pidfile.read_text().split()[0])
            os.kill(postmaster, signal.SIGQUIT)

            async def back() -> bool:
                server.heal()
                try:
                    return (await app.get_job(ids[0])).status is JobStatus.PROCESSING
                except Exception:
                    return False

            await eventually(back, 30, 0.1)
            assert int(pidfile.read_text().split()[0]) != postmaster
            after = await app.enqueue(note, priority=1)
            release.set()
            for job_id in [*ids, after]:
                assert (await ended(app, job_id, 20)).status is JobStatus.DONE
        jobs = [await app.get_job(job_id) for job_id in ids]
    assert [(job.attempt, job.attempts, job.result) for job in jobs] == [(1, (), "done")] * 4
    assert len(seen.of(JobStarted)) == 5
    assert seen.of(JobRescued) == []
    assert seen.of(LeaseLost) == []
