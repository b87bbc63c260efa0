"""`def` hooks around a task in a process of its own; each notes the thread it ran in."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from soniq import Soniq
from soniq.job import JobContext

app = Soniq("postgresql://nowhere", max_retries=0)


def note(ctx: JobContext, what: str) -> None:
    with Path(ctx.tags[0]).open("a") as file:
        file.write(f"{what} in {threading.current_thread().name}\n")


@app.middleware
def around(ctx: JobContext, call_next: Any) -> Any:
    note(ctx, "around")
    return call_next()


@app.on_error
def on_error(ctx: JobContext, error: BaseException) -> None:
    note(ctx, f"on_error {type(error).__name__}")


@app.job(executor="process")
def make(what: str) -> object:
    return object() if what == "object" else what
