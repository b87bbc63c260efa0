"""Workers that are killed, replaced, or frozen."""

from __future__ import annotations

import itertools
import random
import time

import anyio

from ..stand import Hand, Stand, until
from ._scenario import scenario


@scenario(1, hurts=("killed",), short=5, long=70)
async def kill(stand: Stand) -> None:
    """SIGKILL of one worker of four every second, and once of all four."""
    crew = await stand.crew(4)
    async with stand.producing() as producers:
        for second in itertools.count(1):
            await anyio.sleep(1)
            if not producers.alive:
                break
            victims = list(crew) if second == stand.seconds // 2 else [random.choice(crew)]
            for victim in victims:  # on a busy machine they would never begin otherwise
                await stand.ready(victim)
            await stand.kill(*victims)
            for victim in victims:
                crew[crew.index(victim)] = stand.hire()
    for hand in crew:
        await stand.ready(hand)
    await stand.settled()
    await stand.dismiss(*crew)


@scenario(2, hurts=("stopped",), short=5, long=70)
async def deploy(stand: Stand) -> None:
    """SIGTERM rolling deploy in a loop: no attempt is spent, no job waits for a dead worker."""
    impatient = {"shutdown_timeout": 0.1}  # most running jobs are cut short and handed back
    crew = await stand.crew(3, **impatient)
    async with stand.producing() as producers:
        while producers.alive:
            fresh = stand.hire(**impatient)
            await stand.ready(fresh)
            crew.append(fresh)
            await stand.dismiss(crew.pop(0))
    await stand.settled()
    await stand.dismiss(*crew)
    spent = await stand.ask(
        "SELECT count(*) FROM soniq.history WHERE attempt > 1 OR attempts IS NOT NULL"
    )
    if spent != [(0,)]:
        stand.problems.append(f"{spent[0][0]} jobs spent an attempt on a deploy")
    _see_that_none_waited(stand, 3.0)


def _see_that_none_waited(stand: Stand, limit: float) -> None:
    """A job that was handed back begins again about as soon as one that was just enqueued."""
    book = stand.book()
    fresh = max(
        runs[0].began - book.acknowledged_at.get(key, runs[0].began)
        for key, runs in book.runs.items()
    )
    for key, runs in book.runs.items():
        for cut, after in itertools.pairwise(runs):
            if (waited := after.began - cut.ended) > fresh + limit:
                stand.problems.append(f"{key}: lay for {waited:.1f} s, others for {fresh:.1f} s")


@scenario(9, hurts=("frozen", "thawed"), short=6, long=70)
async def freeze(stand: Stand) -> None:
    """SIGSTOP for longer than the heartbeat timeout: late writes change nothing, and it says so."""
    crew = await stand.crew(3, heartbeat_timeout=2)
    async with stand.producing():
        for _ in range(max(1, round(stand.seconds / 5))):
            victim = random.choice(crew)
            await _busy(stand, victim)
            stand.freeze(victim)
            await anyio.sleep(3.5)
            stand.thaw(victim)
            await anyio.sleep(1)
    await stand.settled()
    await stand.dismiss(*crew)
    _see_that_losses_were_told(stand)


async def _busy(stand: Stand, hand: Hand) -> None:
    """Wait until something runs there, so that there is something to lose."""

    def runs() -> bool:
        return any(
            run.pid == hand.pid and run.how is None
            for runs in stand.book().runs.values()
            for run in runs
        )

    began = time.monotonic()
    await until(lambda: runs() or time.monotonic() - began > 5, 10, "a job runs")


def _see_that_losses_were_told(stand: Stand) -> None:
    book = stand.book()
    for runs in book.runs.values():
        for run, after in itertools.pairwise(runs):
            gone = after.attempt > run.attempt
            if gone and (run.job, run.attempt, run.worker) not in book.lost:
                stand.problems.append(f"{run.key}: worker {run.pid} did not say that it lost it")
