"""Hooks and middleware around tasks in processes of their own; each notes where it ran."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from soniq import Soniq
from soniq.job import JobContext

app = Soniq("postgresql://nowhere", max_retries=0)


def note(path: str, what: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


@app.before_job
def before(ctx: JobContext) -> None:
    note(ctx.tags[0], "before")


@app.before_job
async def before_on_loop(ctx: JobContext) -> None:
    note(ctx.tags[0], "before_on_loop")


@app.middleware
async def around(ctx: JobContext, call_next: Any) -> Any:
    return f"<{await call_next()}>"


@app.after_job
def after(ctx: JobContext, result: object) -> None:
    note(ctx.tags[0], f"after:{result}")


@app.on_error
async def on_error(ctx: JobContext, error: BaseException) -> None:
    note(ctx.tags[0], f"on_error:{type(error).__name__}")


@app.job(executor="process")
def work(seconds: float) -> str:
    if seconds < 0:
        raise ValueError("no")
    time.sleep(seconds)
    return "worked"


@app.job(executor="process")
async def work_on_loop(seconds: float) -> str:
    return work.function(seconds)
