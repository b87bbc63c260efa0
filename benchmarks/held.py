"""A transaction that somebody forgot: nothing that dies meanwhile can be vacuumed away.

A thousand jobs a second are produced and consumed; the end of that time is held against its start.
`--seconds 600` shows what ten minutes of it do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg

from .report import Row, least, most, times
from .server import Target
from .steady import RATE, Stream, stream
from .tasks import Application

SECONDS = 60.0
READERS = 4
# How long each of the readers keeps its snapshot.
READ_SECONDS = 10.0


def run(target: Target) -> list[Row]:
    """Measure under one transaction that stays open, and under four readers in turns."""
    seconds = target.during(SECONDS)
    rows: list[Row] = []
    for name, holding, kinds in (
        ("held xmin", _forgotten, _one),
        ("four readers", _readers, _one),
        ("held xmin, 3 queues of 3 priorities", _forgotten, _several),
    ):
        target.empty()
        target.vacuum()
        with holding(target, seconds):
            lived = stream(target, seconds, kinds=kinds)
        rows += _rows(f"{name}, {seconds:g} s", lived)
        rows += _left(target, name)
    return rows


def _one(app: Application) -> list[Any]:
    return [app.stamp]


def _several(app: Application) -> list[Any]:
    return [
        app.stamp.options(queue=queue, priority=priority)
        for queue in ("a", "b", "c")
        for priority in (50, 100, 150)
    ]


@contextlib.contextmanager
def _forgotten(target: Target, seconds: float) -> Iterator[None]:
    with target.connect() as connection, connection.transaction():
        # With an id of its own, as one that wrote something.
        connection.execute("SELECT pg_current_xact_id()")
        yield


@contextlib.contextmanager
def _readers(target: Target, seconds: float) -> Iterator[None]:
    """Hold four snapshots, each taken anew after a while, at moments of their own."""
    over = threading.Event()
    held = min(READ_SECONDS, seconds / 2)

    def read(number: int) -> None:
        with psycopg.connect(target.url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            over.wait(held * number / READERS)
            while not over.is_set():
                connection.execute("SELECT count(*) FROM soniq.queues")
                over.wait(held)
                connection.rollback()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _rows(name: str, lived: Stream) -> list[Row]:
    # The first tenth warms up: connections, plans, the worker's idea of its pace.
    start, end = lived.part(0.1, 0.25), lived.part(0.85, 1.0)
    rows = [Row(f"{name}: rate at the end", "jobs/s", end.rate, start.rate, (least(0.95 * RATE),))]
    for share in (0.5, 0.99):
        late = Row(
            f"  pickup p{share * 100:g} at the end, and at the start",
            "ms",
            end.late(share),
            start.late(share),
            (times(2),),
        )
        rows.append(late)
    return rows


def _left(target: Target, name: str) -> list[Row]:
    """Tell what is left of it, before and after the next vacuum."""
    dead, size = target.dead_rows(), target.megabytes()
    target.vacuum()
    kept, shrunk = target.dead_rows(), target.megabytes()
    return [
        Row(f"  dead rows after a vacuum, and before, {name}", "", kept, dead, (most(1000),)),
        Row(f"  live jobs' size after it, and before, {name}", "MB", shrunk, size),
    ]
