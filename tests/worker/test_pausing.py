"""Workers leave paused queues alone, and take from them the moment the pause is over."""

from __future__ import annotations

import anyio
import pytest

from soniq import Soniq
from soniq.events import JobFinished

from .conftest import Ask, Seen, eventually, idle, run_once, working

pytestmark = pytest.mark.anyio


@pytest.fixture
def note(app: Soniq) -> object:
    @app.job(name="note", queue="one")
    async def note() -> None: ...

    return note


async def test_a_paused_queue_is_left_alone(app: Soniq, note: object) -> None:
    await app.queues.pause("one")
    waits = await app.enqueue("note")
    runs = await app.enqueue("note", queue="two")
    await run_once(app)
    assert (await app.get_job(waits)).status == "queued"
    assert (await app.get_job(runs)).status == "done"
    assert await app.queues.resume("one")
    await run_once(app)
    assert (await app.get_job(waits)).status == "done"


async def test_resume_wakes_a_worker_that_sleeps(
    app: Soniq, note: object, seen: Seen, ask: Ask
) -> None:
    """It polls once in ten minutes, so only a notification can be what wakes it."""
    await app.queues.pause("one")
    await app.enqueue("note")
    async with working(app, poll_interval=600):
        await idle(ask)
        await anyio.wait_all_tasks_blocked()
        assert not seen.of(JobFinished)
        await app.queues.resume("one")
        await seen.one(JobFinished, task="note")


@pytest.mark.parametrize("notify", ["auto", "off"])
async def test_a_pause_that_ends_by_its_moment_wakes_a_worker_that_sleeps(
    app: Soniq, note: object, seen: Seen, ask: Ask, notify: str
) -> None:
    await app.enqueue("note", queue="two")
    interval = {"auto": 600.0, "off": 0.5}[notify]
    async with working(app, poll_interval=interval, notify=notify):
        await seen.one(JobFinished, task="note")
        if notify == "auto":
            await idle(ask)
        await app.queues.pause("one", until=1.0)
        await app.enqueue("note")
        await seen.some(2, JobFinished, task="note")

        async def over() -> bool:
            return await ask("SELECT paused, paused_until FROM soniq.queues") == [(False, None)]

        await eventually(over)


async def test_workers_tell_how_many_attempts_ended_in_each_queue(app: Soniq, note: object) -> None:
    async with working(app, heartbeat_interval=0.05):

        async def told() -> bool:
            await app.enqueue("note")
            queue = await app.queues.get("one")
            return queue.workers == 1 and queue.rate > 0

        await eventually(told)
        assert (await app.queues.get("two")).rate == 0

        async def quiet() -> bool:
            return (await app.queues.get("one")).rate == 0

        await eventually(quiet)


async def test_a_job_that_waits_long_comes_before_newer_ones_where_its_queue_says_so(
    app: Soniq, ask: Ask
) -> None:
    ran: list[str] = []

    @app.job(name="say", queue="one")
    async def say(word: str) -> None:
        ran.append(word)

    await app.queues.pause("one")
    await app.queues.limit("one", aging=60)
    old = await app.enqueue("say", word="old", priority=120)
    await ask("UPDATE soniq.jobs SET scheduled_at = scheduled_at - interval '1 hour'")
    await app.enqueue("say", word="new")
    async with working(app, concurrency=1):

        async def raised() -> bool:
            return (await app.get_job(old)).priority < 100

        await eventually(raised)
        await app.queues.resume("one")

        async def both() -> bool:
            return len(ran) == 2

        await eventually(both)
    assert ran == ["old", "new"]
