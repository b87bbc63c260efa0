"""Handlers, results, hooks and policies that misbehave, among jobs that do not."""

from __future__ import annotations

import anyio

from soniq import SoniqSync
from soniq.job.task import TaskRef

from .. import odd
from ..stand import Stand
from ._scenario import scenario

APP = "benchmarks.chaos.odd:app"
COMPLETION = ("odd_result", "odd_nul", "odd_refused", "odd_policy", "odd_hook")


@scenario(11, hurts=("blocked", "killed"), short=5, long=60)
async def handlers(stand: Stand) -> None:
    """CancelledError, SystemExit, Ctrl-C, a blocked loop, leaked threads, a hungry process."""
    names = [name for name in odd.WANTED if name not in COMPLETION]
    crew = await stand.crew(2, app=APP, process_memory_limit=300)
    async with stand.producing() as producers:
        times = 0
        _enqueue(stand, "odd_block", 1000, seconds=min(20.0, stand.seconds))
        while producers.alive:
            for name in names:
                _enqueue(stand, name, times)
            times += 1
            await anyio.sleep(1)
    await stand.settled()
    await _see_that_records_are_right(stand, names, times)
    await stand.dismiss(*crew)


@scenario(12, short=3, long=40)
async def completion(stand: Stand) -> None:
    """Results that cannot be kept, and hooks, sinks and policies that raise: no other job minds."""
    await stand.ask(odd.REFUSE)
    crew = await stand.crew(2, app=APP)
    async with stand.producing() as producers:
        times = 0
        while producers.alive:
            for name in COMPLETION:
                _enqueue(stand, name, times)
            times += 1
            await anyio.sleep(0.2)
    await stand.settled()
    await _see_that_records_are_right(stand, COMPLETION, times)
    await stand.dismiss(*crew)


def _enqueue(stand: Stand, name: str, number: int, **args: object) -> None:
    key = f"{name}-{number}"
    with SoniqSync(database_url=stand.url, enqueue_validation="none") as app:
        job = app.enqueue(TaskRef(name).options(max_retries=5 if args else 0), key=key, **args)
    stand.ledger.note("ack", key=key, job=job)


async def _see_that_records_are_right(stand: Stand, names: object, times: int) -> None:
    rows = await stand.ask(
        "SELECT task, 'dead_letter', attempts -> 0 ->> 'error', count(*) FROM soniq.dead_letters"
        " GROUP BY 1, 2, 3 UNION ALL"
        " SELECT task, state, NULL, count(*) FROM soniq.history"
        " WHERE task LIKE 'odd%' AND task <> 'odd_block' GROUP BY 1, 2, 3"
    )
    for name in names:  # type: ignore[attr-defined]
        state, words = odd.WANTED[name]
        right = sum(
            count
            for task, found, error, count in rows
            if (task, found) == (name, state) and (words is None or words in (error or ""))
        )
        if right != times:
            told = [row for row in rows if row[0] == name]
            stand.problems.append(f"{name}: {right} of {times} ended as they should: {told}")
