"""Enqueueing by 20 at once while a worker listens, against bare INSERTs that notify nobody.

The worker runs the jobs meanwhile, on the same processors; so the ceiling has a consumer beside it
too, the bare claim-and-delete loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import psycopg

from . import ceiling
from .process import Program
from .report import Row, interleave, paired, ratio
from .server import Target
from .tasks import Application, application

GOALS = ratio(A=0.8, B=0.9)
CLIENTS = 20
JOBS = 2000

Insert = Callable[[Any, Iterable[int]], Awaitable[None]]


def run(target: Target) -> list[Row]:
    """Measure with Soniq's pool and with the callers' transactions, a worker listening or not."""
    rows = []
    for where, ours, bare in (
        ("own pool", _enqueue, ceiling.insert_async),
        ("callers' transactions", _enqueue_within, ceiling.insert_within),
    ):
        for consumed in (True, False):
            target.empty()
            beside = "worker listening" if consumed else "no worker"
            name = f"enqueue {CLIENTS} at once, {where}, {beside}"
            rows.append(paired(name, "jobs/s", _pairs(target, ours, bare, consumed), GOALS))
    return rows


async def _enqueue(app: Application, numbers: Iterable[int]) -> None:
    for i in numbers:
        await app.eq.enqueue(app.noop, i=i)


async def _enqueue_within(app: Application, numbers: Iterable[int]) -> None:
    async with app.eq.backend.acquire() as connection:
        for i in numbers:
            async with connection.transaction():
                await app.eq.enqueue(app.noop, connection=connection, i=i)


def _pairs(target: Target, ours: Insert, bare: Insert, consumed: bool) -> list[tuple[float, float]]:
    app = application(target.url, pool_max_size=CLIENTS)
    jobs = max(CLIENTS, target.size(JOBS))
    with asyncio.Runner() as loop:
        connections = loop.run(_connect(target.url))

        def measure(insert: Insert, hosts: list[Any], program: tuple[str, ...]) -> float:
            if not consumed:
                return loop.run(_rate(insert, hosts, jobs))
            with Program(*program) as beside:
                rate = loop.run(_rate(insert, hosts, jobs))
                beside.stop()
            return rate

        worker, consumer = ("worker_process", target.url), ("bare_worker", "consume", target.url)
        try:
            measure(ours, [app] * CLIENTS, worker)  # it opens its pool
            return interleave(
                target.repeats,
                lambda: measure(ours, [app] * CLIENTS, worker),
                lambda: measure(bare, connections, consumer),
            )
        finally:
            loop.run(app.eq.close())
            for connection in connections:
                loop.run(connection.close())


async def _connect(url: str) -> list[Any]:
    connect = psycopg.AsyncConnection.connect
    return [await connect(url, autocommit=True) for _ in range(CLIENTS)]


async def _rate(insert: Insert, hosts: list[Any], jobs: int) -> float:
    share = jobs // CLIENTS
    began = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for host in hosts:
            clients.create_task(insert(host, range(share)))  # type: ignore[arg-type]
    return share * CLIENTS / (time.perf_counter() - began)
