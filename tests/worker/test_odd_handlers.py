"""Handlers that do what no handler should: only their own job may feel it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from soniq import Soniq
from soniq.events import JobFinished
from soniq.job.record import JobStatus

from .conftest import Seen, ended, run_once, working

pytestmark = pytest.mark.anyio


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("broken")


class Outside(BaseException):
    """What is no Exception: `pytest.fail`, gevent's Timeout and others."""


def leave() -> None:
    raise SystemExit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def group() -> None:
    raise BaseExceptionGroup("several", [ValueError("one"), KeyboardInterrupt()])


def mute() -> None:
    raise Mute


def outside_() -> None:
    raise Outside("odd")


def asyncios() -> None:
    raise asyncio.CancelledError


def stop_iteration() -> None:
    raise StopIteration


def generator_exit() -> None:
    raise GeneratorExit


def nul() -> None:
    raise ValueError("a\0b \ud800")


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "SystemExit": (leave, "SystemExit: 3"),
    "KeyboardInterrupt": (interrupt, "KeyboardInterrupt"),
    "group": (group, "BaseExceptionGroup: several"),
    "mute": (mute, "Mute: (its message could not be read)"),
    "outside": (outside_, "Outside: odd"),
    "CancelledError": (asyncios, "CancelledError"),
    "StopIteration": (stop_iteration, ""),
    "GeneratorExit": (generator_exit, ""),
    "nul": (nul, "ValueError: a\\0b \\ud800"),
    "unserialisable": (object, "InvalidArguments:"),
    "nan": (lambda: float("nan"), ""),
    "result with nul": (lambda: "a\0b", "InvalidArguments:"),
    "surrogate": (lambda: "\ud800", "InvalidArguments:"),
    "large": (lambda: "x" * 2_000_000, "PayloadTooLarge:"),
    "deep": (lambda: deep(100_000), ""),
}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_whatever_a_handler_does_only_its_own_job_is_affected_and_says_why(
    app: Soniq, seen: Seen, kind: str
) -> None:
    """A `BaseException` of a library's own, or asyncio's on trio, once stopped the whole worker."""

    @app.job
    async def good(number: int) -> int:
        return number

    ids = {}
    for name, (act, _) in ODD.items():
        if kind == "async":

            async def handler(act: Any = act) -> Any:
                return act()
        else:

            def handler(act: Any = act) -> Any:  # type: ignore[misc]
                return act()

        task = app.job(name, max_retries=0)(handler)
        ids[name] = await app.enqueue(task)
        await app.enqueue(good, 1)
    async with working(app, concurrency=2) as hand:
        found = {name: await ended(app, job_id) for name, job_id in ids.items()}
        await seen.some(len(ODD), JobFinished)
        assert not hand.ended.is_set()
    for name, job in found.items():
        assert job.status is JobStatus.DEAD_LETTER, name
        assert (job.last_error or "").startswith(ODD[name][1]), name
    assert hand.code == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio's tasks cannot do that
async def test_a_handler_that_cancels_its_own_task_costs_no_slot(app: Soniq, seen: Seen) -> None:
    """`asyncio.current_task().cancel()` in a handler hit the worker's runner after the handler."""

    @app.job(max_retries=0)
    async def rude(wait: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if wait:
            await anyio.sleep(0)

    @app.job
    async def good() -> None:
        await anyio.sleep(0.001)

    ids = [await app.enqueue(rude, wait) for wait in (True, False) * 3]
    good_id = await app.enqueue(good, priority=200)
    async with working(app, concurrency=1):
        assert (await ended(app, good_id)).status is JobStatus.DONE
        for job_id in ids:
            assert (await ended(app, job_id)).status.ended


async def test_results_that_json_knows_come_back_as_they_were(app: Soniq) -> None:
    values = [None, True, 0, 1.5, "ü", [1, [2]], {"a": {"b": []}}, 2**60]

    @app.job
    async def give(place: int) -> Any:
        return values[place]

    ids = [await app.enqueue(give, place) for place in range(len(values))]
    await run_once(app)
    assert [await app.get_result(each) for each in ids] == values


async def test_arguments_that_do_not_fit_fail_the_job_and_are_retried(app: Soniq) -> None:
    """Deploys overlap: the next release may know them."""

    @app.job(name="grown")
    async def grown(user_id: int) -> None: ...

    job_id = await app.enqueue(grown, 1)
    async with Soniq(app.settings.database_url) as older:

        @older.job(name="grown")
        async def other(name: str) -> None: ...

        await run_once(older)
    job = await app.get_job(job_id)
    assert (job.status, job.attempt) == (JobStatus.SCHEDULED, 1)
    assert (job.last_error or "").startswith("InvalidArguments")


async def test_context_variables_do_not_leak_from_job_to_job(app: Soniq) -> None:
    word: ContextVar[str] = ContextVar("word", default="clean")
    found: list[str] = []

    @app.job
    async def on_loop() -> None:
        found.append(word.get())
        word.set("stained")
        await anyio.sleep(0)
        assert word.get() == "stained"

    @app.job
    def in_thread() -> None:
        found.append(word.get())
        word.set("stained")

    for _ in range(5):
        await app.enqueue(on_loop)
        await app.enqueue(in_thread)
    outer = word.set("outer")
    await run_once(app, concurrency=1)
    word.reset(outer)
    assert found == ["outer"] * 10
