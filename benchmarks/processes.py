"""`soniq worker --processes 2` against one process: the same 60,000 no-op jobs, ready beforehand.

On two processors, which the server takes its share of. A run of its own counts how often each job
ran, by what the handlers write.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import ceiling
from .report import Row, interleave, most, paired, share
from .server import Target
from .tasks import STAMPS

JOBS = 60_000
# Nobody notifies of what a COPY brings, so the workers look often; both sides alike.
POLL_SECONDS = 0.02
LONGEST_SECONDS = 60.0


def run(target: Target) -> list[Row]:
    """Measure the drain of both, in turns; then count runs."""
    jobs = target.size(JOBS)
    pairs = interleave(
        target.repeats, lambda: _drain(target, jobs, 2), lambda: _drain(target, jobs, 1)
    )
    return [
        paired(f"drain {jobs:,}, --processes 2 against 1", "jobs/s", pairs, (share(1.1),)),
        _count(target, jobs),
    ]


def _drain(target: Target, jobs: int, processes: int, task: str = "noop", **env: str) -> float:
    """Run them all; answer jobs a second, from the first claim to the last ending."""
    target.empty()
    with _working(target, processes, env):
        with target.connect() as connection:
            ceiling.copy(connection, "soniq.jobs", task, ({"i": i} for i in range(jobs)))
        _until(lambda: _number(target, "SELECT count(*) FROM soniq.history") == jobs)
    seconds = _number(
        target, "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM soniq.history"
    )
    return jobs / max(seconds, 1e-6)


def _count(target: Target, jobs: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stamps"
        _drain(target, jobs, 2, "stamp", **{STAMPS: str(path)})
        ran = [line.split()[0] for line in path.read_bytes().splitlines()]
    if len(set(ran)) != jobs:
        raise RuntimeError(f"{len(set(ran))} of {jobs} jobs ran")
    return Row("  runs a job, --processes 2", "", len(ran) / jobs, goals=(most(1),))


@contextlib.contextmanager
def _working(target: Target, processes: int, env: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "soniq", "worker", "benchmarks.app:eq"]
    command += ["--processes", str(processes)]
    settings = {
        "SONIQ_DATABASE_URL": target.url,
        "SONIQ_POLL_INTERVAL": str(POLL_SECONDS),
        "SONIQ_LOG_LEVEL": "WARNING",
    }
    with subprocess.Popen(command, env=os.environ | settings | env) as supervisor:
        try:
            _until(lambda: _number(target, "SELECT count(*) FROM soniq.workers") == processes)
            yield
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(LONGEST_SECONDS)


def _number(target: Target, query: str) -> float:
    with target.connect() as connection:
        row = connection.execute(query.encode()).fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0


def _until(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not fact():
        if time.monotonic() > end:
            raise TimeoutError("the workers did not get there")
        time.sleep(0.05)
