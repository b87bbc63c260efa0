"""Hurt the system and account for every job: `python -m benchmarks.chaos [kill deploy ...]`.

Each scenario has PostgreSQL servers, workers and producers of its own. Exit code 1: an account does
not balance; its ledger is kept in a folder that is named then.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from . import report
from .postgres import site
from .run import LONG, SHORT, play
from .scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what was asked for; answer the exit code."""
    options = _options(arguments)
    balanced = True
    # So that whoever ends this ends its servers and workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(report.head(), flush=True)
    with site() as where:
        for name in options.scenarios or SCENARIOS:
            scenario = SCENARIOS[name]
            if (reason := scenario.needs()) is not None:
                print(f"{name:<11}  not played: {reason}", flush=True)
                continue
            seconds = options.seconds or _seconds(scenario.short, scenario.long, options.jobs)
            account = play(scenario, where, jobs=options.jobs, seconds=seconds)
            print(report.line(name, account), flush=True)
            for problem in report.problems(account):
                print(problem, flush=True)
            balanced &= account.balanced
    return int(not balanced)


def _seconds(short: float, long: float, jobs: int) -> float:
    """Spread the jobs as the short form does, and more of them over more time."""
    part = min(1.0, max(0.0, (jobs - SHORT) / (LONG - SHORT)))
    return short + (long - short) * part


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:<11} {each.title}" for name, each in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=f"{__doc__}\nScenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        choices=[*SCENARIOS, []],
        metavar="scenario",
        help="one of those below; all of them unless said",
    )
    parser.add_argument("--jobs", type=int, default=LONG, help="jobs a scenario (10,000)")
    parser.add_argument("--seconds", type=float, help="time they are spread over")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or (options.seconds is not None and not 0 < options.seconds < 86_400):
        parser.error("--jobs is at least 1, and --seconds above 0 and below a day")
    return options


if __name__ == "__main__":
    sys.exit(main())
