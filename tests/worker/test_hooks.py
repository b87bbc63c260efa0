"""What an application has called around its jobs."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

import anyio
import psycopg
import pytest

from soniq import Soniq
from soniq.job import JobContext, Snooze
from soniq.job.record import JobStatus

from .conftest import run_once

pytestmark = pytest.mark.anyio

KINDS = pytest.mark.parametrize("handler_kind", ["async", "sync"])
HOOKS = pytest.mark.parametrize("hook_kind", ["async", "sync"])
Calls = list[tuple[Any, ...]]


def declare(app: Soniq, kind: str) -> None:
    def act(how: str) -> str:
        match how:
            case "fail":
                raise ValueError("no")
            case "snooze":
                raise Snooze(3600)
            case "return snooze":
                return Snooze(3600)  # type: ignore[return-value]
        return how

    if kind == "async":

        @app.job(name="act", max_retries=0)
        async def act_async(how: str) -> str:
            return act(how)
    else:

        @app.job(name="act", max_retries=0)
        def act_sync(how: str) -> str:
            return act(how)


def hook(kind: str, calls: Calls, name: str) -> Any:
    def note(context: JobContext, *more: Any) -> None:
        calls.append((name, context.job_id, *map(str, more)))

    async def note_async(context: JobContext, *more: Any) -> None:
        await anyio.sleep(0)
        note(context, *more)

    return note_async if kind == "async" else note


@KINDS
@HOOKS
async def test_hooks_are_called_around_handlers_of_both_kinds(
    app: Soniq, handler_kind: str, hook_kind: str
) -> None:
    calls: Calls = []
    app.before_job(hook(hook_kind, calls, "before"))
    app.after_job(hook(hook_kind, calls, "after"))
    app.on_error(hook(hook_kind, calls, "error"))
    declare(app, handler_kind)
    good, bad = await app.enqueue("act", "good"), await app.enqueue("act", "fail")
    await run_once(app, concurrency=1)
    assert calls == [
        ("before", good),
        ("after", good, "good"),
        ("before", bad),
        ("error", bad, "no"),
    ]


@KINDS
@HOOKS
async def test_a_signal_is_neither_an_error_nor_a_result_for_hooks(
    app: Soniq, handler_kind: str, hook_kind: str
) -> None:
    """`def` hooks were told of a snooze as an error, and of a returned one as a result."""
    calls: Calls = []
    app.after_job(hook(hook_kind, calls, "after"))
    app.on_error(hook(hook_kind, calls, "error"))
    declare(app, handler_kind)
    ids = [await app.enqueue("act", how) for how in ("snooze", "return snooze")]
    await run_once(app)
    assert calls == []
    for job_id in ids:
        assert (await app.get_job(job_id)).status is JobStatus.SCHEDULED


@KINDS
@HOOKS
async def test_a_broken_hook_is_logged_and_harms_nobody(
    app: Soniq, caplog: pytest.LogCaptureFixture, handler_kind: str, hook_kind: str
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("broken hook")

    async def broken_async(*args: Any) -> None:
        raise RuntimeError("broken hook")

    for add in (app.before_job, app.after_job, app.on_error):
        add(broken_async if hook_kind == "async" else broken)
    declare(app, handler_kind)
    good, bad = await app.enqueue("act", "good"), await app.enqueue("act", "fail")
    with caplog.at_level(logging.ERROR, logger="soniq.worker"):
        await run_once(app)
    assert await app.get_result(good) == "good"
    assert (await app.get_job(bad)).last_error == "ValueError: no"
    assert caplog.text.count("RuntimeError: broken hook") == 4


@KINDS
@HOOKS
async def test_a_hook_with_an_exit_in_it_harms_nobody_either(
    app: Soniq, handler_kind: str, hook_kind: str
) -> None:
    """`sys.exit()` in a hook counted as the job's failure, or ended the worker."""

    def broken(*args: Any) -> None:
        raise SystemExit(3)

    async def broken_async(*args: Any) -> None:
        raise SystemExit(3)

    for add in (app.before_job, app.after_job, app.on_error):
        add(broken_async if hook_kind == "async" else broken)
    declare(app, handler_kind)
    good, bad = await app.enqueue("act", "good"), await app.enqueue("act", "fail")
    await run_once(app)
    assert await app.get_result(good) == "good"
    assert (await app.get_job(bad)).last_error == "ValueError: no"


@KINDS
async def test_an_error_hook_is_told_of_a_timeout(app: Soniq, handler_kind: str) -> None:
    calls: Calls = []
    app.on_error(hook("async", calls, "error"))
    if handler_kind == "async":

        @app.job(name="hold", timeout=0.1, max_retries=0)
        async def hold() -> None:
            await anyio.sleep(30)
    else:

        @app.job(name="hold", timeout=0.1, max_retries=0)
        def hold(ctx: JobContext) -> None:
            while True:
                ctx.check_cancelled()
                threading.Event().wait(0.005)

    job_id = await app.enqueue("hold")
    await run_once(app)
    assert [call[:2] for call in calls] == [("error", job_id)]


@KINDS
async def test_middleware_wraps_in_order_and_decides_the_result(
    app: Soniq, handler_kind: str
) -> None:
    calls: Calls = []

    @app.middleware
    async def outer(context: JobContext, call_next: Any) -> Any:
        calls.append(("outer", context.job_id))
        return f"<{await call_next()}>"

    @app.middleware
    async def inner(context: JobContext, call_next: Any) -> Any:
        calls.append(("inner", context.job_id))
        return f"[{await call_next()}]"

    declare(app, handler_kind)
    job_id = await app.enqueue("act", "good")
    await run_once(app)
    assert await app.get_result(job_id) == "<[good]>"
    assert calls == [("outer", job_id), ("inner", job_id)]


async def test_def_middleware_wraps_def_handlers_in_their_thread(app: Soniq) -> None:
    threads: set[int] = set()

    @app.middleware
    def around(context: JobContext, call_next: Any) -> Any:
        threads.add(threading.get_ident())
        return f"<{call_next()}>"

    declare(app, "sync")
    job_id = await app.enqueue("act", "good")
    await run_once(app)
    assert await app.get_result(job_id) == "<good>"
    assert threading.get_ident() not in threads


@KINDS
async def test_what_middleware_raises_or_swallows_is_the_jobs_own(
    app: Soniq, handler_kind: str
) -> None:
    @app.middleware
    async def judge(context: JobContext, call_next: Any) -> Any:
        try:
            result = await call_next()
        except ValueError:
            return "swallowed"
        raise KeyError(result)

    declare(app, handler_kind)
    good, bad = await app.enqueue("act", "good"), await app.enqueue("act", "fail")
    await run_once(app)
    assert (await app.get_job(good)).last_error == "KeyError: 'good'"
    assert await app.get_result(bad) == "swallowed"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio's tasks cannot do that
async def test_a_hook_that_cancels_harms_nobody(app: Soniq) -> None:

    @app.on_error
    async def rude(context: JobContext, error: BaseException) -> None:
        raise asyncio.CancelledError

    declare(app, "async")
    bad = await app.enqueue("act", "fail")
    good = await app.enqueue("act", "good")
    await run_once(app, concurrency=1)
    assert (await app.get_job(bad)).last_error == "ValueError: no"
    assert await app.get_result(good) == "good"


@KINDS
@HOOKS
@pytest.mark.parametrize("answer", ["returns", "snoozes"])
async def test_an_error_hook_is_told_of_a_handler_that_answers_too_late(
    app: Soniq, handler_kind: str, hook_kind: str, answer: str
) -> None:
    """The attempt counted as timed out, but `after_job` was called for it, or no hook at all."""
    calls: Calls = []
    app.after_job(hook(hook_kind, calls, "after"))
    app.on_error(hook(hook_kind, calls, "error"))

    def late() -> str:
        if answer == "snoozes":
            raise Snooze(60)
        return "late"

    if handler_kind == "async":

        @app.job(name="hold", timeout=0.1, max_retries=0)
        async def hold() -> str:
            try:
                await anyio.sleep(30)
            except BaseException:
                return late()
            return "never"
    else:

        @app.job(name="hold", timeout=0.1, max_retries=0)
        def hold(ctx: JobContext) -> str:
            while not ctx.cancelled:
                threading.Event().wait(0.005)
            return late()

    job_id = await app.enqueue("hold")
    await run_once(app)
    assert calls == [("error", job_id, "The attempt took longer than its timeout of 0.1 s.")]
    assert (await app.get_job(job_id)).attempts[-1].outcome == "timed_out"


@HOOKS
async def test_a_handler_that_answers_in_time_has_done_so_though_its_hooks_outlast_the_deadline(
    app: Soniq, hook_kind: str
) -> None:
    """`after_job` was told of the success, and then the attempt counted as timed out."""
    contexts: list[JobContext] = []

    def wait() -> None:
        while not contexts[0].cancelled:
            threading.Event().wait(0.005)

    async def outlast_async(context: JobContext, result: object) -> None:
        contexts.append(context)
        await anyio.to_thread.run_sync(wait)

    def outlast(context: JobContext, result: object) -> None:
        contexts.append(context)
        wait()

    app.after_job(outlast if hook_kind == "sync" else outlast_async)

    @app.job(timeout=0.2, max_retries=0)
    def act() -> str:
        return "in time"

    job_id = await app.enqueue(act)
    await run_once(app)
    job = await app.get_job(job_id)
    assert (job.status, job.result, job.attempts) == (JobStatus.DONE, "in time", ())
    assert contexts


@KINDS
@pytest.mark.parametrize("hook_kinds", [["sync"], ["async"], ["sync", "async"]], ids="-".join)
async def test_error_hooks_are_told_of_arguments_and_results_that_do_not_fit_and_of_exits(
    app: Soniq, handler_kind: str, hook_kinds: list[str]
) -> None:
    """`def` hooks around a `def` task were told of none of them."""
    calls: Calls = []
    for kind in hook_kinds:
        app.on_error(hook(kind, calls, kind))
    if handler_kind == "async":

        @app.job(name="keep", max_retries=0)
        async def keep_async(leave: bool = False) -> object:
            return sys.exit(3) if leave else object()
    else:

        @app.job(name="keep", max_retries=0)
        def keep(leave: bool = False) -> object:
            return sys.exit(3) if leave else object()

    ids = [await app.enqueue("keep", leave=each) for each in (False, False, True)]
    with psycopg.connect(app.settings.database_url or "") as connection:
        connection.execute("""UPDATE soniq.jobs SET args = '{"gone": 1}' WHERE id = %s""", ids[:1])
    await run_once(app)
    assert sorted(call[:2] for call in calls) == sorted(
        (kind, job_id) for kind in hook_kinds for job_id in ids
    )
