"""What a supervisor does when one of its worker processes has ended.

| it ended                                     | then                                            |
| -------------------------------------------- | ----------------------------------------------- |
| while everything stops                       | its place stays empty                           |
| with 0, and `--run-once`                     | its place stays empty: nothing is due           |
| with 0: somebody drained this one            | another takes its place at once                 |
| by a fault before it, or any, was ready      | everything ends with its code: so would the next |
| in any other way                             | another takes its place, after a pause          |
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TypeAlias

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# One that ran for so long was sound: what ended it is no row of failures.
SOUND_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker process ended.

    Attributes:
        code: Its exit code; a negative one is the signal that killed it.
        ready: Whether it had signed in, and so could run jobs.
        seconds: How long it lived.
        failures: How many before it failed in a row, in this place.
    """

    code: int
    ready: bool
    seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class Leave:
    """The place stays empty."""


@dataclass(frozen=True, slots=True)
class Refill:
    """Another takes the place after a pause; `failures` is what its own end counts from."""

    pause_seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The next would fail in the same way: end everything."""


Verdict: TypeAlias = Leave | Refill | GiveUp


def after(ended: Ended, *, stopping: bool, run_once: bool, others_ready: bool) -> Verdict:
    """Decide what becomes of the place of a worker process that ended.

    Args:
        ended: How it ended.
        stopping: Whether everything was asked to stop.
        run_once: Whether workers end by themselves when nothing is due.
        others_ready: Whether any other one is up.
    """
    if stopping or (run_once and ended.code == 0):
        return Leave()
    if ended.code == 0:
        return Refill(0.0, 0)
    if ended.code > 0 and not ended.ready and not others_ready:
        return GiveUp()
    failures = 1 if ended.seconds >= SOUND_SECONDS else ended.failures + 1
    return Refill(pause_after(failures), failures)


def pause_after(failures: int) -> float:
    """Choose the seconds before the next start, doubling from failure to failure.

    Args:
        failures: How many in a row; the first is 1.
    """
    # 2**16 times the first is far beyond the longest.
    return float(min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS))


def said(code: int) -> str:
    """Say how a process ended, by its exit code; a negative one is the signal that killed it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # most of the real-time signals have no name
        return f"was killed by signal {-code}"
