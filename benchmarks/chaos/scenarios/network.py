"""Networks that cut, delay, swallow; and a pooler in between."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ..pooler import Pooler, missing
from ..road import Road
from ..stand import Hand, Stand
from ._scenario import scenario

# What a producer may wait for: a free connection, a new one, an answer; and each a bit late.
LIMITS = {"pool_timeout": 3, "connect_timeout": 2, "statement_timeout": 2}
HANG_SECONDS = 10.0
# For a worker that is told to stop while nothing answers: see worker/worker.py.
STOP_SECONDS = 30.0


@scenario(6, hurts=("delayed", "cut", "stalled", "cut off"), short=9, long=90)
async def network(stand: Stand) -> None:
    """A road that delays, cuts, stalls and swallows: nobody hangs, and `stop` still works."""
    (near,) = await stand.crew(1)
    with Road(stand.url) as road:
        stand.url = road.url
        far = await stand.crew(2, **LIMITS)
        async with stand.producing(**LIMITS) as producers:
            for turn in itertools.cycle((_delay, _cut, _stall, _swallow)):
                if not producers.alive:
                    break
                await turn(stand, road, far)
                road.clear()
                await anyio.sleep(1)
        await stand.settled()
        road.swallow()
        await stand.dismiss(far[0], seconds=STOP_SECONDS)
        road.clear()
        await stand.dismiss(far[1], near)
    for line in stand.ledger.lines():
        if line["what"] == "unknown" and line["seconds"] > HANG_SECONDS:
            stand.problems.append(f"a producer hung for {line['seconds']:.1f} s: {line['error']}")


async def _delay(stand: Stand, road: Road, far: list[Hand]) -> None:
    stand.ledger.fault("delayed")
    road.delay = 0.1
    await anyio.sleep(1)


async def _cut(stand: Stand, road: Road, far: list[Hand]) -> None:
    stand.ledger.fault("cut")
    road.cut()


async def _stall(stand: Stand, road: Road, far: list[Hand]) -> None:
    stand.ledger.fault("stalled")
    road.block()
    await anyio.sleep(1)


async def _swallow(stand: Stand, road: Road, far: list[Hand]) -> None:
    """For longer than the heartbeat timeout: the near worker takes over what the far ones held."""
    for hand in far:
        stand.ledger.fault("cut off", hand.pid)
    road.swallow()
    await anyio.sleep(4)


@asynccontextmanager
async def _pooled(stand: Stand) -> AsyncIterator[Pooler]:
    folder = stand.site.open_folder("pooler")
    pooler = Pooler(stand.server, folder)
    await anyio.to_thread.run_sync(pooler.start)
    try:
        yield pooler
    finally:
        pooler.kill()


@scenario(7, hurts=("cut",), short=5, long=60, needs=missing)
async def pooler(stand: Stand) -> None:
    """PgBouncer in transaction mode between everything, killed now and then; then listen_url."""
    direct = stand.url
    async with _pooled(stand) as between:
        stand.url = between.url
        crew = await stand.crew(2)
        async with stand.producing() as producers:
            await anyio.sleep(4)  # by then the listener knows what it is behind
            while producers.alive:
                stand.ledger.fault("cut")
                between.kill()
                await anyio.to_thread.run_sync(between.start)
                await anyio.sleep(2)
        await stand.settled()
        await stand.dismiss(*crew)
        for hand in crew:
            said = [each for each in hand.said() if "pooler in transaction mode" in each]
            if len(said) != 1:
                stand.problems.append(f"a deaf worker said {len(said)} times that it polls")
        await _see_that_it_is_fast_again(stand, direct)


async def _see_that_it_is_fast_again(stand: Stand, direct: str) -> None:
    crew = await stand.crew(1, listen_url=direct, poll_interval=60)
    stand.jobs, stand.seconds = 40, 2.0
    async with stand.producing():
        pass
    await stand.settled(5)  # the next poll would be a minute away
    await stand.dismiss(*crew)
