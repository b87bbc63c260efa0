"""Background jobs on the PostgreSQL your application already has."""

from __future__ import annotations

# `typing` would be most of what `import soniq` costs.
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from .client.aio import AsyncTask, Soniq
    from .client.sync import SoniqSync, SyncTask
    from .errors import (
        AccessDenied,
        ConnectionLost,
        DatabaseError,
        DatabaseMissing,
        DatabaseTimeout,
        DuplicateJob,
        DuplicateSchedule,
        DuplicateTask,
        EmbeddedFailed,
        EmbeddedUnavailable,
        InvalidArguments,
        InvalidOption,
        InvalidTransition,
        JobCancelled,
        JobError,
        JobFailed,
        JobNotFound,
        JobTimeout,
        LeaseLost,
        MissingExtra,
        PayloadTooLarge,
        ProcessLost,
        QueueFull,
        ReadOnlyServer,
        ScheduleNotFound,
        SchemaChanged,
        SchemaMissing,
        SchemaTooNew,
        SettingsError,
        SoniqError,
        TransactionAborted,
        TransientError,
        UnknownConnection,
        UnknownOption,
        UnknownTask,
        UsageError,
        WaitTimeout,
        WorkerLost,
    )
    from .job.context import JobContext
    from .job.limits import CircuitBreaker
    from .job.outcome import Cancel, Discard, Retry, Snooze
    from .job.queue import QueueStats
    from .job.record import Attempt, DeadLetter, Job, JobStatus
    from .job.schedule import Schedule
    from .job.task import Call, Task, TaskRef
    from .job.unique import Enqueued

__all__ = [
    "AccessDenied",
    "AsyncTask",
    "Attempt",
    "Call",
    "Cancel",
    "CircuitBreaker",
    "ConnectionLost",
    "DatabaseError",
    "DatabaseMissing",
    "DatabaseTimeout",
    "DeadLetter",
    "Discard",
    "DuplicateJob",
    "DuplicateSchedule",
    "DuplicateTask",
    "EmbeddedFailed",
    "EmbeddedUnavailable",
    "Enqueued",
    "InvalidArguments",
    "InvalidOption",
    "InvalidTransition",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobError",
    "JobFailed",
    "JobNotFound",
    "JobStatus",
    "JobTimeout",
    "LeaseLost",
    "MissingExtra",
    "PayloadTooLarge",
    "ProcessLost",
    "QueueFull",
    "QueueStats",
    "ReadOnlyServer",
    "Retry",
    "Schedule",
    "ScheduleNotFound",
    "SchemaChanged",
    "SchemaMissing",
    "SchemaTooNew",
    "SettingsError",
    "Snooze",
    "Soniq",
    "SoniqError",
    "SoniqSync",
    "SyncTask",
    "Task",
    "TaskRef",
    "TransactionAborted",
    "TransientError",
    "UnknownConnection",
    "UnknownOption",
    "UnknownTask",
    "UsageError",
    "WaitTimeout",
    "WorkerLost",
    "__version__",
]

_CLIENTS = {
    "AsyncTask": "client.aio",
    "Soniq": "client.aio",
    "SoniqSync": "client.sync",
    "SyncTask": "client.sync",
}


def __getattr__(name: str) -> Any:
    # Loaded when first asked for, so that `import soniq` costs next to nothing.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    rooms = [_CLIENTS[name]] if name in _CLIENTS else ["errors", "job"]
    found = (getattr(import_module(f"{__name__}.{room}"), name, None) for room in rooms)
    globals()[name] = value = next(filter(None, found))
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
