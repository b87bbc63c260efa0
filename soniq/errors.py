"""Every error Soniq raises, in one tree, split by who must act.

`UsageError` is for the programmer, `SettingsError` for the operator, `DatabaseError` for whoever
keeps the server (its `TransientError` branch may be tried again), `JobError` for what happens in a
job. Messages are for people and end with the next step; attributes are for programs.
"""

from __future__ import annotations


class SoniqError(Exception):
    """The root: catch it to catch everything of ours."""


# -- the programmer


class UsageError(SoniqError, ValueError):
    """A call that cannot mean anything; nothing was written."""


class UnknownTask(UsageError):
    """No task of that name is declared in this process."""


class DuplicateTask(UsageError):
    """Two tasks claim one name."""


class UnknownOption(UsageError):
    """An option that does not exist, or one that is also a parameter of the task."""


class InvalidOption(UsageError):
    """An option with a value that is out of range or of the wrong type."""


class InvalidArguments(UsageError):
    """Arguments that do not fit the task's signature or its model, or cannot be written as JSON."""


class PayloadTooLarge(InvalidArguments):
    """Arguments or a result whose JSON is larger than `max_payload_bytes`."""


class UnknownConnection(UsageError):
    """An object was lent as a connection that Soniq cannot use."""


class DuplicateJob(UsageError):
    """There is a job of that key already, and the enqueue asked for an error then.

    Attributes:
        job_id: The job that has the key.
    """

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(UsageError):
    """No job, live or finished, has that id."""


class InvalidTransition(UsageError):
    """The job is in a state that does not allow what was asked, or a schedule is code's."""


class ScheduleNotFound(UsageError):
    """No schedule has that name."""


class DuplicateSchedule(UsageError):
    """Two schedules claim one name."""


# -- whoever enqueues


class QueueFull(SoniqError):
    """A queue has as many waiting jobs as its `max_depth` allows; nothing was written.

    Attributes:
        queue: Its name.
        may_wait: Whether the queue asks to wait for room; on connections of our own that was done.
    """

    def __init__(self, message: str, *, queue: str, may_wait: bool = False) -> None:
        super().__init__(message)
        self.queue = queue
        self.may_wait = may_wait


# -- the operator


class SettingsError(SoniqError):
    """The process is set up in a way that cannot work."""


class AppNotFound(SettingsError):
    """No application, or more than one, was found where the command looked."""


class DatabaseMissing(SettingsError):
    """The server was reached, but it has no database of that name."""


class SchemaMissing(SettingsError):
    """The database has no Soniq schema, or an older one than the code needs."""


class SchemaTooNew(SettingsError):
    """The database's schema is newer than this code."""


class SchemaChanged(SettingsError):
    """A migration that was applied is not the one this code carries."""


class EmbeddedUnavailable(SettingsError):
    """There is no database URL, and no embedded PostgreSQL to fall back on."""


class EmbeddedFailed(SettingsError):
    """The embedded PostgreSQL could not be started."""


class MissingExtra(SettingsError):
    """An optional part was asked for whose package is not installed."""


# -- the keeper of the database


class DatabaseError(SoniqError):
    """The server refused or failed.

    Attributes:
        sqlstate: The five-character code of PostgreSQL, or None when the server never answered.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class TransientError(DatabaseError):
    """A failure that may pass: the same call may be tried again."""


class ConnectionLost(TransientError):
    """The connection broke, or the server could not be reached."""


class DatabaseTimeout(TransientError):
    """No answer, or no free connection, within the stated time."""


class ReadOnlyServer(TransientError):
    """The server takes no writes: a standby, or one that was demoted."""


class AccessDenied(DatabaseError):
    """A wrong password, or a role without the right."""


class TransactionAborted(DatabaseError):
    """The caller's transaction had failed before; only its rollback is possible."""


# -- inside a job


class JobError(SoniqError):
    """Something that ends or bends one attempt of one job."""


class JobTimeout(JobError):
    """The attempt ran longer than its timeout."""


class JobCancelled(JobError):
    """The job was cancelled, or its worker is stopping, while the handler ran."""


class LeaseLost(JobError):
    """The job belongs to somebody else now; this attempt's writes change nothing."""


class ProcessLost(JobError):
    """The process that ran the attempt (`executor="process"`) died, or could not be started."""


class WorkerLost(JobError):
    """The worker that ran the attempt died or fell silent."""


class JobFailed(JobError):
    """Raised by `get_result` for a job that ended without a result."""


class WaitTimeout(JobError, TimeoutError):
    """The job had not ended within the time given to `wait`."""


# -- for their messages


LONGEST_SHOWN = 200


def shown(value: object) -> str:
    """Write a value that somebody gave into a message: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  a `__repr__` may raise anything; so do numbers of 4,301 digits
        return f"<{type(value).__name__} that cannot be shown>"
    if len(text) <= LONGEST_SHOWN:
        return text
    return f"{text[:LONGEST_SHOWN]}... ({len(text):,} characters)"
