"""Circuit breakers as a worker sees them: what counts as a failure, and obeying one that opened."""

from __future__ import annotations

import json

from ..events import BreakerClosed, BreakerOpened
from ..policy.lifecycle import Again, Bury, Verdict
from ..store.gates import Mended, Opened
from .attempt import Attempt
from .bench import Bench


def trips(attempt: Attempt | None, verdict: Verdict) -> bool:
    """Tell whether an ending is a failure that a circuit breaker counts."""
    if attempt is None or not isinstance(verdict, Again | Bury):
        return False
    limits = attempt.task.defaults.limits
    tripping = verdict.failure.outcome in {"failed", "timed_out"}
    return tripping and limits is not None and limits.breaker is not None


def obey(bench: Bench, opened: Opened) -> str:
    """Hand back what was claimed ahead, and tell of it; answer the message to the other workers."""
    key = None if opened.gate is None else opened.gate[1:]
    bench.bus.emit(BreakerOpened(opened.task, key, opened.seconds, opened.again))
    bench.close_gate(opened.task, opened.gate)
    bench.wake_tend.ring()
    return f"b:{json.dumps([opened.task, opened.gate], ensure_ascii=False)}"


def heard(bench: Bench, message: str) -> None:
    """Obey what another worker's message says, without the `b:` before it."""
    task, gate = json.loads(message)
    bench.close_gate(task, gate)
    bench.wake_tend.ring()


def mended(bench: Bench, what: Mended) -> None:
    """Tell that what failures had stopped runs again."""
    bench.bus.emit(BreakerClosed(what.task, None if what.gate is None else what.gate[1:]))
