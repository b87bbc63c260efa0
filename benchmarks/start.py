"""How long starting takes: the command line, the import, a worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from .process import Program
from .report import Row, interleave, most, paired
from .server import Target

TIMED = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1000)"


def run(target: Target) -> list[Row]:
    """Measure each beside a Python, or a psycopg, that does nothing else."""
    turns = 2 * target.repeats
    return [
        paired(
            "soniq --help",
            "ms",
            interleave(turns, _command("-m", "soniq", "--help"), _command("-c", "pass")),
            (most(150),),
        ),
        paired(
            "import soniq",
            "ms",
            interleave(turns, _import("import soniq"), _import("import psycopg")),
            (most(80),),
        ),
        paired(
            "from soniq import SoniqSync",
            "ms",
            interleave(turns, _import("from soniq import SoniqSync"), _import("import psycopg")),
        ),
        paired(
            "worker ready",
            "ms",
            interleave(
                target.repeats,
                _ready("worker_process", target.url),
                _ready("bare_worker", "consume", target.url),
            ),
            (most(500),),
        ),
    ]


def _command(*arguments: str) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - began) * 1000

    return measure


def _import(statement: str) -> Callable[[], float]:
    def measure() -> float:
        command = [sys.executable, "-c", TIMED.format(statement)]
        return float(subprocess.run(command, check=True, capture_output=True).stdout)

    return measure


def _ready(*program: str) -> Callable[[], float]:
    def measure() -> float:
        with Program(*program) as started:
            started.stop()
        return float(started.ready["seconds"]) * 1000

    return measure
