"""Measure, beside the ceilings: `python -m benchmarks [drain enqueue ...] [--quick] [--json]`.

An embedded PostgreSQL of its own is used, unless SONIQ_TEST_DATABASE_URL or SONIQ_DATABASE_URL
names a server. The ratio is the median of interleaved pairs; above 1 is better than the ceiling.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Sequence

from .report import Row, as_json, table
from .server import Target, target

FIGURES = ("enqueue", "together", "bulk", "drain", "pickup", "idle", "start")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; answer 1 when a benchmark failed."""
    options = _options(arguments)
    rows: list[Row] = []
    failed = False
    with target(quick=options.quick, repeats=1 if options.quick else options.repeats) as where:
        if not options.json:
            print(_head(where), flush=True)
        for figure in options.figures or FIGURES:
            print(f"measuring {figure} ...", file=sys.stderr, flush=True)
            try:
                rows += importlib.import_module(f"benchmarks.{figure}").run(where)
            except Exception as error:
                failed = True
                print(f"{figure} failed: {error!r}", file=sys.stderr, flush=True)
                if options.debug:
                    raise
    print(as_json(rows) if options.json else table(rows))
    return int(failed)


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
