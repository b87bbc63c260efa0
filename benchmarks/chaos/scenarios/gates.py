"""Limits while workers are killed and replaced: never exceeded, and never stuck."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict

import anyio

from ..application import FEW, line
from ..ledger import Book, Run
from ..producer import LONGEST, WHICH
from ..stand import Stand
from ._scenario import scenario

TASKS = "SELECT args ->> 'key', task FROM soniq.history"


@scenario(14, hurts=("killed", "stopped"), short=5, long=90)
async def gates(stand: Stand) -> None:
    """SIGKILL and SIGTERM of workers in turn, whose jobs all have limits."""
    crew = await stand.crew(4)
    async with stand.producing(env={LONGEST: "0.1", WHICH: "1"}) as producers:
        for turn in itertools.count():
            await anyio.sleep(0.7)
            if not producers.alive:
                break
            victim = random.choice(crew)
            await stand.ready(victim)
            if turn % 2:
                await stand.dismiss(victim)
            else:
                await stand.kill(victim)
            crew[crew.index(victim)] = stand.hire()
    for hand in crew:
        await stand.ready(hand)
    await stand.settled(60)
    await stand.dismiss(*crew)
    await _see_that_limits_held(stand)


async def _see_that_limits_held(stand: Stand) -> None:
    book, runs = stand.book(), defaultdict[tuple[str, int], list[Run]](list)
    for key, task in await stand.ask(TASKS):
        group = 0 if task == "note_few" else line(key)
        runs[task, group] += book.runs.get(key, [])
    limits = {"note_few": FEW, "note_key": 2, "note_line": 1}
    for (task, group), found in runs.items():
        if (most := _at_once(found, book)) > limits[task]:
            stand.problems.append(f"{task} {group}: {most} ran at once, of {limits[task]}")


def _at_once(runs: list[Run], book: Book) -> int:
    """Count how many runs there were at most at any moment."""
    changes = [(run.began, 1) for run in runs] + [(_end(run, book), -1) for run in runs]
    running = itertools.accumulate(step for _, step in sorted(changes))
    return max(running, default=0)


def _end(run: Run, book: Book) -> float:
    """Tell when a run ended, or was killed with its process."""
    killed = (
        fault.at
        for fault in book.faults
        if fault.kind == "killed" and fault.hit == run.pid and fault.at >= run.began
    )
    return min(run.ended, next(killed, run.ended))
