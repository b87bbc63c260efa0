"""Enqueueing by 20 at once while a worker listens, against bare INSERTs that notify nobody.

The worker runs the jobs meanwhile, on the same processors; so the ceiling has a consumer beside it
too, the bare claim-and-delete loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import psycopg

from . import ceiling
from .process import Program
from .report import Row, share
from .server import Target
from .tasks import Application, application
from .timing import compare

GOALS = (share(0.9),)
CLIENTS = 20
JOBS = 1000

Insert = Callable[[Any, Iterable[int]], Awaitable[None]]


def run(target: Target) -> list[Row]:
    """Measure with Soniq's pool and with the callers' transactions, a worker listening or not."""
    rows: list[Row] = []
    for where, ours, bare in (
        ("own pool", _enqueue, ceiling.insert_async),
        ("callers' transactions", _enqueue_within, ceiling.insert_within),
    ):
        for consumed in (True, False):
            beside = "worker listening" if consumed else "no worker"
            name = f"enqueue {CLIENTS} at once, {where}, {beside}"
            rows += _compare(name, target, ours, bare, consumed)
    return rows


class Caller(NamedTuple):
    """One of those who enqueue at once, with a connection of their own."""

    app: Application
    connection: Any


async def _enqueue(caller: Caller, numbers: Iterable[int]) -> None:
    for i in numbers:
        await caller.app.eq.enqueue(caller.app.noop, i=i)


async def _enqueue_within(caller: Caller, numbers: Iterable[int]) -> None:
    app, connection = caller
    for i in numbers:
        async with connection.transaction():
            await app.eq.enqueue(app.noop, connection=connection, i=i)


def _compare(name: str, target: Target, ours: Insert, bare: Insert, consumed: bool) -> list[Row]:
    app = application(target.url, pool_max_size=CLIENTS)
    jobs = max(CLIENTS, target.size(JOBS))
    target.empty()
    with asyncio.Runner() as loop, contextlib.ExitStack() as beside:
        connections = loop.run(_connect(target.url))
        callers = [Caller(app, connection) for connection in connections]
        if consumed:
            beside.enter_context(Program("worker_process", target.url))
            beside.enter_context(Program("bare_worker", "consume", target.url))

        def enqueue() -> None:
            loop.run(_at_once(ours, callers, jobs))

        def insert() -> None:
            loop.run(_at_once(bare, connections, jobs))

        try:
            return compare(name, target.repeats, enqueue, insert, jobs, GOALS)
        finally:
            loop.run(app.eq.close())
            for connection in connections:
                loop.run(connection.close())


async def _connect(url: str) -> list[Any]:
    connect = psycopg.AsyncConnection.connect
    return [await connect(url, autocommit=True) for _ in range(CLIENTS)]


async def _at_once(insert: Insert, hosts: list[Any], jobs: int) -> None:
    async with asyncio.TaskGroup() as clients:
        for host in hosts:
            clients.create_task(insert(host, range(jobs // CLIENTS)))  # type: ignore[arg-type]
