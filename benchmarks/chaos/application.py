"""The application whose workers are hurt: `soniq worker benchmarks.chaos.application:app`.

Its handlers note in the ledger that SONIQ_CHAOS_LEDGER names when a run begins and ends.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio

import soniq
from soniq import Soniq
from soniq.events import LeaseLost, WorkerFenced, WorkerStarted, WorkerStopped
from soniq.job import JobContext

from .ledger import Ledger

VARIABLE = "SONIQ_CHAOS_LEDGER"

ledger = Ledger(Path(os.environ.get(VARIABLE, os.devnull)))
app = Soniq()
me: list[str] = []


@app.job(name="note", max_retries=30, retry_delay=0.05)
async def note(ctx: JobContext, key: str, seconds: float) -> list[int]:
    with ledger.run(ctx, key):
        await anyio.sleep(seconds)
    return [ctx.attempt, os.getpid()]


@app.job(name="note_thread", max_retries=30, retry_delay=0.05)
def note_thread(ctx: JobContext, key: str, seconds: float) -> list[int]:
    with ledger.run(ctx, key):
        threading.Event().wait(seconds)
        ctx.check_cancelled()
    return [ctx.attempt, os.getpid()]


@app.job(name="note_effect", max_retries=30, retry_delay=0.05)
async def note_effect(ctx: JobContext, key: str, seconds: float) -> None:
    """Its effect is a row, written in the transaction that ends the job."""
    with ledger.run(ctx, key):
        await anyio.sleep(seconds)
        async with ctx.transaction() as connection:
            await connection.execute("INSERT INTO effects (key) VALUES (%s)", (key,))


TASKS = (note, note_thread, note_effect)

FEW, LINES = 6, 7


def line(key: str, **_: object) -> int:
    """One of a few keys, told from the number that ends a job's own."""
    return int(key.rpartition("-")[2]) % LINES


@app.job(name="note_few", max_retries=30, retry_delay=0.05, concurrency=FEW)
async def note_few(ctx: JobContext, key: str, seconds: float) -> list[int]:
    return await note(ctx, key, seconds)


@app.job(name="note_key", max_retries=30, retry_delay=0.05, concurrency=2, concurrency_key=line)
async def note_key(ctx: JobContext, key: str, seconds: float) -> list[int]:
    return await note(ctx, key, seconds)


@app.job(name="note_line", max_retries=30, retry_delay=0.05, ordered_by=line)
def note_line(ctx: JobContext, key: str, seconds: float) -> list[int]:
    return note_thread(ctx, key, seconds)


LIMITED = (note_few, note_key, note_line)


def _started(event: WorkerStarted) -> None:
    me[:] = [event.worker_id]
    ledger.note("worker", worker=event.worker_id, soniq=soniq.__file__)


app.bus.subscribe(WorkerStarted, _started)
app.bus.subscribe(WorkerStopped, lambda event: ledger.note("gone", worker=event.worker_id))
app.bus.subscribe(WorkerFenced, lambda event: ledger.fault("fenced", os.getpid()))
app.bus.subscribe(
    LeaseLost,
    lambda event: ledger.note("lost", job=event.job_id, attempt=event.attempt, worker=me[0]),
)
