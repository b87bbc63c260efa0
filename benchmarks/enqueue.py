"""Enqueueing one by one, against a bare INSERT of the same row that notifies nobody."""

from __future__ import annotations

import asyncio
import time

import psycopg

from . import ceiling
from .report import Row, interleave, paired, ratio
from .server import Target
from .tasks import application

GOALS = ratio(A=0.8, B=0.95)
# Short turns: a commit's time changes from one second to the next.
CHUNK = 200


def run(target: Target) -> list[Row]:
    """Measure both clients."""
    target.empty()
    turns = target.size(5 * target.repeats)
    return [_sync(target, turns), _async(target, turns)]


def _sync(target: Target, turns: int) -> Row:
    app = application(target.url)
    with app.eq.sync as eq, target.connect() as connection:

        def ours() -> float:
            return _rate(lambda: [eq.enqueue(app.noop, i=i) for i in range(CHUNK)])

        def bare() -> float:
            return _rate(lambda: ceiling.insert(connection, CHUNK))

        interleave(1, ours, bare)  # both prepare their statements
        pairs = interleave(turns, ours, bare)
    return paired("enqueue one by one, sync", "jobs/s", pairs, GOALS)


def _async(target: Target, turns: int) -> Row:
    app = application(target.url)
    with asyncio.Runner() as loop:
        connect = psycopg.AsyncConnection.connect(target.url, autocommit=True)
        connection = loop.run(connect)

        async def enqueue() -> None:
            for i in range(CHUNK):
                await app.eq.enqueue(app.noop, i=i)

        def ours() -> float:
            return _rate(lambda: loop.run(enqueue()))

        def bare() -> float:
            return _rate(lambda: loop.run(ceiling.insert_async(connection, range(CHUNK))))

        interleave(1, ours, bare)
        pairs = interleave(turns, ours, bare)
        loop.run(app.eq.close())
        loop.run(connection.close())
    return paired("enqueue one by one, async", "jobs/s", pairs, GOALS)


def _rate(run: object) -> float:
    assert callable(run)
    began = time.perf_counter()
    run()
    return CHUNK / (time.perf_counter() - began)
