"""How soon an idle worker starts a job, and how near to its moment a scheduled one.

Both sides read one clock: the moment the enqueue returns, committed to disk, and the moment the
handler starts, its claim committed as well. The rows `with the enqueue` begin before the enqueue.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from soniq.job.ids import new_id

from .process import Program
from .report import Goal, Row, most, percentile
from .server import Target
from .tasks import STAMPS, application

JOBS = 800
EVERY_SECONDS = 0.02
# Turns of so many jobs, so that noise falls on both sides.
TURN = 50

INSERT = """
    WITH job AS (
        INSERT INTO bare.jobs (id, task, queue, args) VALUES (%s, 'stamp', 'default', %s)
        RETURNING id)
    SELECT pg_notify('bare', CAST(id AS text)) FROM job"""


def run(target: Target) -> list[Row]:
    """Measure against a bare psycopg listener that claims by one statement."""
    target.empty()
    jobs = max(20, target.size(JOBS * target.repeats // 2))
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = Stamps(Path(folder, "ours")), Stamps(Path(folder, "bare"))
        with (
            Program("worker_process", target.url, env=ours.env) as worker,
            Program("bare_worker", "listen", target.url, env=bare.env) as listener,
        ):
            time.sleep(0.5)  # the worker goes idle
            rows = _latencies(target, jobs, ours, bare)
            moments = _lateness(target, max(10, target.size(100)), ours)
            worker.stop()
            listener.stop()
    return [
        *rows,
        Row(f"scheduled job, late p50 of {len(moments)}", "ms", percentile(moments, 0.5)),
        Row("scheduled job, late p95", "ms", percentile(moments, 0.95), goals=(most(10),)),
        Row("scheduled job, early at most", "ms", max(0.0, -min(moments))),
    ]


class Stamps:
    """The file where handlers in another process note their starts."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self.env = {STAMPS: str(path)}

    def wait(self, count: int, seconds: float = 20.0) -> dict[int, int]:
        """Wait until so many have started; give the nanosecond of each job's start."""
        end = time.monotonic() + seconds
        while len(lines := self._path.read_text().splitlines()) < count:
            if time.monotonic() > end:
                raise RuntimeError(f"{len(lines)} of {count} jobs started within {seconds} s")
            time.sleep(0.01)
        return {int(i): int(at) for i, at in (line.split() for line in lines)}


def _latencies(target: Target, jobs: int, ours: Stamps, bare: Stamps) -> list[Row]:
    app = application(target.url)
    sent, sent_bare = Sent(), Sent()
    with app.eq.sync as eq, target.connect() as connection:

        def enqueue(i: int) -> None:
            eq.enqueue(app.stamp, i=i)

        def insert(i: int) -> None:
            connection.execute(INSERT, (new_id(), json.dumps({"i": i})))

        for first in range(0, jobs, TURN):
            numbers = range(first, min(first + TURN, jobs))
            sent.send(numbers, enqueue)
            sent_bare.send(numbers, insert)
    started, started_bare = ours.wait(jobs), bare.wait(jobs)
    return [
        *_rows(
            "pickup, idle worker",
            _between(sent.returned, started),
            _between(sent_bare.returned, started_bare),
            {"p50": (most(1),), "p95": (), "p99": (most(3),)},
        ),
        *_rows(
            "  with the enqueue",
            _between(sent.called, started),
            _between(sent_bare.called, started_bare),
            {"p50": (), "p99": ()},
        ),
    ]


class Sent:
    """The nanoseconds of each enqueue's call and return."""

    def __init__(self) -> None:
        self.called: dict[int, int] = {}
        self.returned: dict[int, int] = {}

    def send(self, numbers: range, send: Callable[[int], None]) -> None:
        """Send these at a steady pace."""
        for i in numbers:
            self.called[i] = time.time_ns()
            send(i)
            self.returned[i] = time.time_ns()
            time.sleep(EVERY_SECONDS)


def _lateness(target: Target, jobs: int, stamps: Stamps) -> list[float]:
    app = application(target.url)
    done = len(stamps.wait(0))
    first = time.time_ns() + 1_000_000_000
    due = {done + i: first + int(i * 2 * EVERY_SECONDS * 1e9) for i in range(jobs)}
    with app.eq.sync as eq:
        for i, moment in due.items():
            eq.schedule(app.stamp, datetime.fromtimestamp(moment / 1e9, UTC), i=i)
    started = stamps.wait(done + jobs)
    return _between(due, {i: started[i] for i in due})


def _between(sent: dict[int, int], started: dict[int, int]) -> list[float]:
    return [(started[i] - at) / 1e6 for i, at in sent.items()]


def _rows(
    what: str, ours: list[float], bare: list[float], goals: dict[str, tuple[Goal, ...]]
) -> list[Row]:
    rows = []
    for name, goal in goals.items():
        share = int(name[1:]) / 100
        mine, theirs = percentile(ours, share), percentile(bare, share)
        rows.append(Row(f"{what}, {name} of {len(ours)}", "ms", mine, theirs, goal, theirs / mine))
    return rows
