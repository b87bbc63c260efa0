"""`def` jobs in threads, which take one job after another by themselves."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from soniq import JobContext, Soniq
from soniq.events import JobFinished, JobReleased

from .conftest import Seen, ended, eventually, run_once, working

pytestmark = pytest.mark.anyio


async def test_quick_jobs_pass_one_that_holds_its_thread(app: Soniq, seen: Seen) -> None:
    gate = threading.Event()

    @app.job
    def hold() -> None:
        gate.wait(20)

    @app.job
    def quick() -> None: ...

    held = await app.enqueue(hold)
    await app.enqueue_many(quick, [{}] * 200)
    async with working(app, concurrency=2) as hand:
        await seen.some(200, JobFinished, task=quick.name)
        assert [job_id for job_id, _ in hand.worker.bench.running] == [held]
        gate.set()
        await seen.one(JobFinished, task=hold.name)


async def test_jobs_that_one_thread_runs_do_not_see_each_others_variables(app: Soniq) -> None:
    word: ContextVar[str] = ContextVar("word", default="clean")
    found: list[str] = []

    @app.job
    def stain() -> None:
        found.append(word.get())
        word.set("stained")

    await app.enqueue_many(stain, [{}] * 20)
    await run_once(app, concurrency=1)
    assert found == ["clean"] * 20


async def test_a_thread_sees_the_variables_its_worker_was_started_with(app: Soniq) -> None:
    word: ContextVar[str] = ContextVar("word", default="nobody's")
    found: list[str] = []

    @app.job
    def note() -> None:
        found.append(word.get())

    await app.enqueue_many(note, [{}] * 20)
    token = word.set("the caller's")
    await run_once(app, concurrency=1)
    word.reset(token)
    assert found == ["the caller's"] * 20


async def test_a_thread_sees_the_variables_that_middleware_set(app: Soniq) -> None:
    word: ContextVar[str] = ContextVar("word", default="nobody's")
    found: list[str] = []

    @app.middleware
    async def around(ctx: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        word.set(ctx.job_id)
        return await call_next()

    @app.job
    def note() -> None:
        found.append(word.get())

    ids = await app.enqueue_many(note, [{}] * 5)
    await run_once(app, concurrency=1)
    assert sorted(found) == sorted(ids)


async def test_def_and_async_jobs_keep_their_order(app: Soniq) -> None:
    order: list[int] = []

    @app.job
    def in_thread(number: int) -> None:
        order.append(number)

    @app.job
    async def on_loop(number: int) -> None:
        order.append(number)

    for number in range(30):
        await app.enqueue(on_loop if number % 3 == 0 else in_thread, number)
    await run_once(app, concurrency=1)
    assert order == list(range(30))


async def test_no_thread_is_started_while_another_is_free(app: Soniq) -> None:
    threads: set[int] = set()

    @app.job
    def note() -> None:
        threads.add(threading.get_ident())

    async with working(app, concurrency=10):
        for _ in range(5):
            await ended(app, await app.enqueue(note))
    assert len(threads) == 1


async def test_threads_end_with_their_worker(app: Soniq) -> None:
    @app.job
    def note() -> None: ...

    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "soniq-job"}

    before = ours()
    await app.enqueue_many(note, [{}] * 50)
    await run_once(app, concurrency=5)

    async def gone() -> bool:
        return ours() <= before

    await eventually(gone)


async def test_a_thread_begins_nothing_once_its_worker_drains(app: Soniq, seen: Seen) -> None:
    gate = threading.Event()
    begun: list[int] = []

    @app.job
    def act() -> None:
        begun.append(len(hand.worker.bench.ready))
        if begun[-1] > 0:  # the first that has others behind it, claimed ahead
            gate.wait(20)

    async with working(app, concurrency=1) as hand:
        await app.enqueue_many(act, [{}] * 300)

        async def holding() -> bool:
            return bool(begun) and begun[-1] > 0

        await eventually(holding)
        held = list(begun)
        hand.worker.stop()
        gate.set()
    assert begun == held
    assert len(seen.of(JobReleased)) >= held[-1]  # and what a claim under way added


async def test_a_deadline_is_kept_in_the_middle_of_a_threads_jobs(app: Soniq) -> None:
    told = threading.Event()

    @app.job
    def quick() -> None: ...

    @app.job(timeout=0.1, max_retries=0)
    def slow() -> None:
        told.wait(20)

    await app.enqueue_many(quick, [{}] * 5, priority=1)
    job_id = await app.enqueue(slow)
    async with working(app, concurrency=1) as hand:

        async def out_of_time() -> bool:
            return any(attempt.overran for attempt in hand.worker.bench.running.values())

        await eventually(out_of_time)
        told.set()
        job = await ended(app, job_id)
    assert job.attempts[0].outcome == "timed_out"


async def test_what_a_thread_was_left_at_is_not_written(app: Soniq) -> None:
    gate = threading.Event()

    @app.job
    def hold() -> None:
        gate.wait(20)

    first = await app.enqueue(hold)
    await app.enqueue(hold)
    async with working(app, concurrency=1, shutdown_timeout=0, sync_grace=0) as hand:

        async def running() -> bool:
            return bool(hand.worker.bench.running)

        await eventually(running)
        assert await hand.stop() == 1
    gate.set()
    await anyio.sleep(0)
    assert (await app.get_job(first)).status == "processing"
