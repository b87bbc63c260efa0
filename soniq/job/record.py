"""A job as the database tells of it: typed records that also read like mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from .unique import Unique


class JobStatus(StrEnum):
    """Where in its life a job is."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    PROCESSING = "processing"
    DONE = "done"
    CANCELLED = "cancelled"
    DEAD_LETTER = "dead_letter"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job by itself."""
        return self in {JobStatus.DONE, JobStatus.CANCELLED, JobStatus.DEAD_LETTER}


class Record(Mapping[str, Any]):
    """A frozen dataclass that is also a mapping of its fields: `job.status`, `job["status"]`."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        if key not in self._names():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Attempt(Record):
    """One run of a job that did not end it well.

    Attributes:
        attempt: Its number; the first is 1.
        outcome: `failed`, `timed_out`, `worker_lost`, `retry`, `discarded` or
            `snoozed_out`.
        error: The error's type and message, if there was one.
        traceback: Where it came from, in the handler's code.
        worker_id: Who ran it.
        started_at: When it began.
        ended_at: When its end was written, by the database's clock.
    """

    attempt: int
    outcome: str
    error: str | None
    traceback: str | None
    worker_id: str | None
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Attempt:
        """Read one entry of the `attempts` column."""
        return cls(
            attempt=data["attempt"],
            outcome=data["outcome"],
            error=data.get("error"),
            traceback=data.get("traceback"),
            worker_id=data.get("worker_id"),
            started_at=moment(data.get("started_at")),
            ended_at=moment(data.get("ended_at")),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Job(Record):
    """One stored call of a task, wherever it lies.

    Attributes:
        id: A version 7 UUID.
        task: The task's name.
        queue: The queue it was enqueued on.
        args: Its arguments by name.
        status: Where in its life it is.
        priority: 1 to 1000; lower runs first.
        attempt: Runs begun so far that count.
        max_attempts: Runs it may have: retries and one.
        scheduled_at: When it is, or was last, due.
        created_at: When it was enqueued.
        started_at: When its last attempt began.
        finished_at: When it was done, cancelled or became a dead letter.
        worker_id: Who runs it, or ran it last.
        timeout: Seconds an attempt may take; None leaves it to the task.
        tags: Words it was given.
        attempts: The runs that went wrong, in order.
        result: What the handler returned, once done.
        reason: Why it was cancelled or became a dead letter.
        cancel_requested: Somebody asked the running attempt to stop.
    """

    id: str
    task: str
    queue: str
    args: dict[str, Any]
    status: JobStatus
    priority: int
    attempt: int
    max_attempts: int
    scheduled_at: datetime
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker_id: str | None = None
    timeout: float | None = None
    tags: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    result: Any = None
    reason: str | None = None
    cancel_requested: bool = False

    @property
    def last_error(self) -> str | None:
        """The error of the last attempt that had one."""
        return next((a.error for a in reversed(self.attempts) if a.error), None)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Job:
        """Read a row that the database wrote as a JSON object."""
        return cls(
            id=data["id"],
            task=data["task"],
            queue=data["queue"],
            args=data["args"],
            status=JobStatus(data["state"]),
            priority=data["priority"],
            attempt=data["attempt"],
            max_attempts=data["max_attempts"],
            scheduled_at=datetime.fromisoformat(data["scheduled_at"]),
            created_at=datetime.fromisoformat(data["created_at"]),
            started_at=moment(data.get("started_at")),
            finished_at=moment(data.get("finished_at")),
            worker_id=data.get("worker_id"),
            timeout=data.get("timeout_seconds"),
            tags=tuple(data.get("tags") or ()),
            attempts=tuple(Attempt.of(entry) for entry in data.get("attempts") or ()),
            result=data.get("result"),
            reason=data.get("reason"),
            cancel_requested=bool(data.get("cancel_requested")),
        )


@dataclass(frozen=True, slots=True, eq=False)
class DeadLetter(Record):
    """A job that used up its attempts or was refused.

    Attributes:
        job: The job as it died.
        replayed_at: When it was last replayed, if ever.
        replayed_as: The id of the job that replay made.
    """

    job: Job
    replayed_at: datetime | None = None
    replayed_as: str | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def reason(self) -> str | None:
        """Why it died."""
        return self.job.reason

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> DeadLetter:
        """Read a row that the database wrote as a JSON object."""
        replayed_at = moment(data.get("replayed_at"))
        return cls(Job.of(data), replayed_at, data.get("replayed_as"))


class Claimed(NamedTuple):
    """A job as its worker holds it, between claim and ending: a row as it came, no dataclass.

    Attributes:
        id: A UUID.
        args: Its arguments, still JSON text.
        timeout: Seconds it was enqueued with; None leaves it to the task.
        tags: Still a JSON text.
        trace: The same.
        cancel_requested: Somebody asked to cancel it while it was handed back.
        found_seconds: After how long its claim had found the first job, by the server's clock.
    """

    id: str
    task: str
    queue: str
    args: str
    attempt: int
    max_attempts: int
    snoozes: int
    priority: int
    scheduled_at: datetime
    created_at: datetime
    timeout: float | None
    tags: str | None
    trace: str | None
    cancel_requested: bool = False
    found_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """How new jobs are stored and run: all of a job but its id and arguments, checked.

    The jobs of a bulk share one, so that what they have in common is worked out once.

    Attributes:
        due: A moment, seconds from the database's now, or None for now.
        timeout: Seconds an attempt may take; None leaves it to the task.
        unique: What makes it one of its kind, None if nothing does.
        gate: What limits it; None is nothing (see `job/limits.py`).
    """

    task: str
    queue: str
    priority: int
    due: datetime | float | None
    max_attempts: int
    timeout: float | None = None
    tags: tuple[str, ...] | None = None
    trace: str | None = None
    unique: Unique | None = None
    gate: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it is due now and asks for nothing special."""
        return self.unique is None and self.gate is None and self.plain_but_for_keys

    @property
    def plain_but_for_keys(self) -> bool:
        """Whether it asks for nothing special but to be unique, or limited."""
        return self.due is None and self.timeout is None and self.tags is None and not self.trace

    def of_one(self, unique: Unique | None, gate: str | None) -> Placement:
        """Place one job of several by a key and a gate of its own.

        Written out: `dataclasses.replace` takes four times as long, for each job of a bulk.
        """
        return Placement(
            self.task,
            self.queue,
            self.priority,
            self.due,
            self.max_attempts,
            self.timeout,
            self.tags,
            self.trace,
            unique,
            gate,
        )


class NewJob(NamedTuple):
    """A job about to be stored; its arguments written as JSON text."""

    id: str
    args: str
    placement: Placement


def moment(text: str | None) -> datetime | None:
    """Read a moment as PostgreSQL writes it in JSON."""
    return None if text is None else datetime.fromisoformat(text)
