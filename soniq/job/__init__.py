"""What a job is: its options, arguments, context, outcome and record. Values, no I/O."""

from __future__ import annotations

from .context import JobContext
from .limits import CircuitBreaker
from .outcome import Cancel, Discard, Retry, Snooze
from .queue import QueueStats
from .record import Attempt, DeadLetter, Job, JobStatus
from .schedule import Schedule
from .task import Call, Task, TaskRef
from .unique import Enqueued

__all__ = [
    "Attempt",
    "Call",
    "Cancel",
    "CircuitBreaker",
    "DeadLetter",
    "Discard",
    "Enqueued",
    "Job",
    "JobContext",
    "JobStatus",
    "QueueStats",
    "Retry",
    "Schedule",
    "Snooze",
    "Task",
    "TaskRef",
]
