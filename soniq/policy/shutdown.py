"""What a worker does between the first SIGTERM and its end.

| phase    | entered by                           | does                                           |
| -------- | ------------------------------------ | ---------------------------------------------- |
| running  | start                                | claims and runs                                |
| draining | SIGTERM, SIGINT, stop()              | claims nothing, hands back, lets running end   |
| aborting | `shutdown_timeout` or second signal  | cancels async handlers, sets the token of sync |
| stopped  | all done, or `sync_grace` later      | flushes, signs out                             |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Phase(IntEnum):
    """Where in its life a worker is; it never goes back."""

    RUNNING = 0
    DRAINING = 1
    ABORTING = 2
    STOPPED = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stopping worker waits, in seconds.

    Attributes:
        drain: From the first signal until handlers are cut short.
        grace: From then until threads that do not end are left behind.
    """

    drain: float
    grace: float


def phase_after(
    phase: Phase,
    *,
    running: int,
    signals: int,
    stopping_seconds: float,
    aborting_seconds: float,
    patience: Patience,
) -> Phase:
    """Decide the next phase.

    Args:
        phase: The present one.
        running: Attempts that have not ended.
        signals: How often the worker was asked to stop.
        stopping_seconds: Time since it was first asked.
        aborting_seconds: Time since handlers were cut short; 0 before.
        patience: How long to wait.
    """
    if phase is Phase.STOPPED or signals == 0:
        return phase
    if running == 0:
        return Phase.STOPPED
    if phase is Phase.ABORTING:
        return Phase.STOPPED if aborting_seconds >= patience.grace else phase
    hurried = signals > 1 or stopping_seconds >= patience.drain
    return Phase.ABORTING if hurried else Phase.DRAINING
