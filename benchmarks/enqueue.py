"""Enqueueing one by one, against a bare INSERT of the same row that notifies nobody."""

from __future__ import annotations

import asyncio

import psycopg

from . import ceiling
from .report import Row, share
from .server import Target
from .tasks import application
from .timing import compare

GOALS = (share(0.95),)
# Short turns: a commit's time changes from one second to the next.
CHUNK = 200


def run(target: Target) -> list[Row]:
    """Measure both clients."""
    target.empty()
    turns = target.size(5 * target.repeats)
    return [*_sync(target, turns), *_async(target, turns)]


def _sync(target: Target, turns: int) -> list[Row]:
    app = application(target.url)
    with app.eq.sync as eq, target.connect() as connection:

        def ours() -> None:
            for i in range(CHUNK):
                eq.enqueue(app.noop, i=i)

        def bare() -> None:
            ceiling.insert(connection, CHUNK)

        return compare("enqueue one by one, sync", turns, ours, bare, CHUNK, GOALS)


def _async(target: Target, turns: int) -> list[Row]:
    app = application(target.url)
    with asyncio.Runner() as loop:
        connect = psycopg.AsyncConnection.connect(target.url, autocommit=True)
        connection = loop.run(connect)

        async def enqueue() -> None:
            for i in range(CHUNK):
                await app.eq.enqueue(app.noop, i=i)

        def ours() -> None:
            loop.run(enqueue())

        def bare() -> None:
            loop.run(ceiling.insert_async(connection, range(CHUNK)))

        rows = compare("enqueue one by one, async", turns, ours, bare, CHUNK, GOALS)
        loop.run(app.eq.close())
        loop.run(connection.close())
    return rows
