"""Measure, beside the ceilings: `python -m benchmarks [drain enqueue ...] [--quick] [--json]`.

Each figure that has a goal says `pass`, or how far away it is.

An embedded PostgreSQL of its own is used, unless SONIQ_TEST_DATABASE_URL or SONIQ_DATABASE_URL
names a server. The share is ours of the ceiling: the median of interleaved pairs;
above 1 is better.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from collections.abc import Sequence

from .report import Row, as_json, head, lines, summary
from .server import Target, target

FIGURES = (
    "enqueue", "bounds", "together", "bulk", "drain", "hooks", "processes", "pickup", "backlog",
    "queues", "schedules", "held", "limits", "memory", "idle", "start", "unique",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; answer 1 when a benchmark failed."""
    options = _options(arguments)
    repeats = 1 if options.quick else options.repeats
    rows: list[Row] = []
    failed = False
    with target(quick=options.quick, repeats=repeats, seconds=options.seconds) as where:
        if not options.json:
            print(f"{_head(where)}\n{head()}", flush=True)
        for figure in options.figures or FIGURES:
            measured = _measure(figure, where, debug=options.debug)
            failed |= measured is None
            rows += measured or []
            if measured and not options.json:
                print(lines(measured), flush=True)
    print(as_json(rows) if options.json else summary(rows))
    return int(failed)


def _measure(figure: str, where: Target, *, debug: bool) -> list[Row] | None:
    """Measure one figure; None when it failed, so that the others are measured all the same."""
    began = time.monotonic()
    _tell(f"measuring {figure} ...")
    try:
        rows: list[Row] = importlib.import_module(f"benchmarks.{figure}").run(where)
    except Exception as error:
        _tell(f"{figure} failed: {error!r}")
        if debug:
            raise
        return None
    _tell(f"measured {figure} in {time.monotonic() - began:.0f} s")
    return rows


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "figures",
        nargs="*",
        choices=[*FIGURES, []],
        metavar="figure",
        help=f"of {', '.join(FIGURES)}; all of them unless said",
    )
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it runs")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of each figure (5)")
    parser.add_argument("--seconds", type=float, help="how long the figures over time take")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser.parse_args(arguments)


def _head(where: Target) -> str:
    with where.connect() as connection:
        version = connection.info.parameter_status("server_version")
        commit = connection.execute("SHOW synchronous_commit").fetchone()
    return (
        f"Python {platform.python_version()}, PostgreSQL {version}, {os.cpu_count()} processors, "
        f"synchronous_commit {commit and commit[0]}, {where.repeats} repeats"
    )


if __name__ == "__main__":
    sys.exit(main())
