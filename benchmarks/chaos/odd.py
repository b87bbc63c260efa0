"""The application with handlers that misbehave: `soniq worker benchmarks.chaos.odd:app`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

from soniq.events import JobFinished
from soniq.job import JobContext

from .application import app, ledger

__all__ = ["REFUSE", "WANTED", "app"]

# What must become of a job of each task: its state, and words of its error.
WANTED = {
    "odd_cancelled": ("dead_letter", "CancelledError"),
    "odd_exit": ("dead_letter", "SystemExit"),
    "odd_interrupt": ("dead_letter", "KeyboardInterrupt"),
    "odd_thread_exit": ("dead_letter", "SystemExit"),
    "odd_result": ("dead_letter", "cannot be kept"),
    "odd_nul": ("dead_letter", "cannot be kept"),
    "odd_refused": ("dead_letter", "no such result"),
    "odd_policy": ("dead_letter", "ValueError"),
    "odd_hook": ("done", None),
    "odd_leak": ("done", None),
    "odd_hunger": ("dead_letter", "Memory"),
}

# What chokes on a result, as a check or a trigger of the user's may.
REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.result = '"refused"' THEN RAISE 'no such result'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON soniq.history
    FOR EACH ROW EXECUTE FUNCTION refuse()"""


def declared(name: str, **options: Any) -> Any:
    return app.job(name=name, **{"max_retries": 0, **options})


@declared("odd_cancelled")
async def odd_cancelled(ctx: JobContext, key: str) -> None:
    with ledger.run(ctx, key, ends="fail"):
        pass
    raise asyncio.CancelledError


@declared("odd_exit")
async def odd_exit(ctx: JobContext, key: str) -> None:
    with ledger.run(ctx, key):
        raise SystemExit(3)


@declared("odd_interrupt")
async def odd_interrupt(ctx: JobContext, key: str) -> None:
    with ledger.run(ctx, key):
        raise KeyboardInterrupt


@declared("odd_thread_exit")
def odd_thread_exit(ctx: JobContext, key: str) -> None:
    with ledger.run(ctx, key):
        raise SystemExit(3)


@declared("odd_result")
async def odd_result(ctx: JobContext, key: str) -> object:
    with ledger.run(ctx, key, ends="fail"):
        return object()


@declared("odd_nul")
async def odd_nul(ctx: JobContext, key: str) -> str:
    with ledger.run(ctx, key, ends="fail"):
        return "a\0b"


@declared("odd_refused")
async def odd_refused(ctx: JobContext, key: str) -> str:
    with ledger.run(ctx, key, ends="fail"):
        return "refused"


@declared("odd_policy", retry_policy=lambda error, attempt, job: 1 / 0)
async def odd_policy(ctx: JobContext, key: str) -> None:
    with ledger.run(ctx, key):
        raise ValueError("no")


@declared("odd_hook")
async def odd_hook(ctx: JobContext, key: str) -> None:
    with ledger.run(ctx, key):
        pass


@declared("odd_leak")
def odd_leak(ctx: JobContext, key: str) -> None:
    """Threads that nobody ends."""
    with ledger.run(ctx, key):
        for _ in range(20):
            threading.Thread(target=threading.Event().wait, daemon=True).start()


@declared("odd_block", max_retries=5)
async def odd_block(ctx: JobContext, key: str, seconds: float) -> None:
    """Keep the whole loop, and so every other job of this worker, from going on."""
    with ledger.run(ctx, key):
        if ctx.attempt == 1:
            ledger.fault("blocked", os.getpid())
            time.sleep(seconds)
            ledger.fault("blocked", os.getpid())


@declared("odd_hunger", executor="process")
def odd_hunger(ctx: JobContext, key: str) -> None:
    """Ask for more memory than its process may have."""
    with ledger.run(ctx, key):
        ledger.fault("killed", os.getpid())
        held = []
        while True:
            held.append(bytearray(64 * 1024 * 1024))


@app.before_job
async def break_before(ctx: JobContext) -> None:
    if ctx.job_name == "odd_hook":
        raise LookupError("a hook")


@app.after_job
def break_after(ctx: JobContext, result: object) -> None:
    if ctx.job_name == "odd_hook":
        raise SystemExit("another hook")


def _break_sink(event: JobFinished) -> None:
    if event.task == "odd_hook":
        raise LookupError("a sink")


app.bus.subscribe(JobFinished, _break_sink)
