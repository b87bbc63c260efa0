"""Hooks and middleware around `def` jobs: which of them need the event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from soniq import Soniq
from soniq.events import JobStarted
from soniq.job import JobContext

from .conftest import Seen, ended, eventually, run_once, working

pytestmark = pytest.mark.anyio


async def test_an_object_with_an_async_call_is_an_async_hook_around_a_thread(app: Soniq) -> None:
    """It counted as `def`, and its coroutine became the result, which could not be kept."""

    class Around:
        async def __call__(self, context: JobContext, call_next: Any) -> Any:
            return f"<{await call_next()}>"

    app.middleware(Around())

    @app.job
    def act() -> str:
        return "good"

    job_id = await app.enqueue(act)
    await run_once(app)
    assert await app.get_result(job_id) == "<good>"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_thread_needs_no_loop_between_jobs_whose_hooks_are_all_def(app: Soniq) -> None:
    """Any hook had each job hop to a thread and back, which cost three times the job."""
    loop, gate = asyncio.get_running_loop(), threading.Event()
    asked: list[None] = []
    passed: list[bool] = []
    app.before_job(lambda context: None)
    app.middleware(lambda context, call_next: call_next())

    def hold_the_loop() -> None:
        passed.append(gate.wait(15))

    @app.job
    def act() -> None:
        if asked:
            gate.set()
        elif hand.worker.bench.ready:
            asked.append(None)
            loop.call_soon_threadsafe(hold_the_loop)

    async with working(app, concurrency=1) as hand:
        await app.enqueue_many(act, [{}] * 300)

        async def held() -> bool:
            return bool(passed)

        await eventually(held, seconds=20)
    assert passed == [True]


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_error_hooks_are_not_told_of_a_cancelled_job(
    app: Soniq, seen: Seen, kind: str
) -> None:
    """`def` hooks around a `def` task were told of JobCancelled, as if it had failed."""
    told: list[str] = []

    def note(ctx: JobContext, error: BaseException) -> None:
        told.append(str(error))

    async def note_async(ctx: JobContext, error: BaseException) -> None:
        note(ctx, error)

    app.on_error(note if kind == "def" else note_async)

    @app.job
    def hold(ctx: JobContext) -> None:
        while True:
            ctx.check_cancelled()
            threading.Event().wait(0.005)

    async with working(app):
        job_id = await app.enqueue(hold)
        await seen.one(JobStarted)
        await app.cancel_job(job_id)
        await ended(app, job_id)
    assert told == []
