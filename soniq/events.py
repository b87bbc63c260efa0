"""What happened, as values, and the bus that tells whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

log = logging.getLogger("soniq.events")

E = TypeVar("E", bound="Event")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class JobEvent(Event):
    """Something that happened to a job.

    Attributes:
        job_id: Its id.
        task: Its task's name.
        queue: Its queue.
        attempt: Which attempt it was about.
    """

    job_id: str
    task: str
    queue: str
    attempt: int


@dataclass(frozen=True, slots=True)
class JobStarted(JobEvent):
    """A handler was called."""


@dataclass(frozen=True, slots=True)
class JobFinished(JobEvent):
    """A job is done; `seconds` is how long the attempt took."""

    seconds: float


@dataclass(frozen=True, slots=True)
class JobRetried(JobEvent):
    """An attempt failed, and another follows after `delay` seconds."""

    error: str
    delay: float


@dataclass(frozen=True, slots=True)
class JobDied(JobEvent):
    """A job became a dead letter."""

    error: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobCancelled(JobEvent):
    """A running job ended as cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class JobSnoozed(JobEvent):
    """A job asked to run later, in `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class JobReleased(JobEvent):
    """A job went back to its queue without having counted."""


@dataclass(frozen=True, slots=True)
class JobRescued(JobEvent):
    """A job of a dead worker went back to its queue."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class JobOverran(JobEvent):
    """A thread outlived its deadline; it cannot be killed and keeps its slot."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseLost(JobEvent):
    """An attempt ended whose job belongs to somebody else by now; nothing was written."""


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker signed in."""

    worker_id: str
    queues: tuple[str, ...]
    concurrency: int


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """A worker signed out; `left` are jobs whose threads would not end."""

    worker_id: str
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerFenced(Event):
    """A worker stopped its own jobs, because it could not report for `seconds`."""

    worker_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ScheduleFired(Event):
    """Jobs of a schedule were enqueued: one, or several to make up for moments that were missed.

    `moment` is the last they stand for, `late` how many seconds after its time that was seen.
    """

    schedule: str
    task: str
    moment: datetime
    job_ids: tuple[str, ...]
    late: float


@dataclass(frozen=True, slots=True)
class SchedulesDeclared(Event):
    """The schedules that code declares were brought up to date; names of those that changed.

    `refused` are names that a user's schedule has already: the code's does not run.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    retired: tuple[str, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BreakerOpened(Event):
    """Failures stopped a task, or one `key` of it, for `seconds`; told by the worker that noticed.

    `again` is that it was stopped before, and that the job which tried it failed, too.
    """

    task: str
    key: str | None
    seconds: float
    again: bool


@dataclass(frozen=True, slots=True)
class BreakerClosed(Event):
    """A job went well of a task, or of a `key` of it, that failures had stopped; all run again."""

    task: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Listening(Event):
    """Notifications arrive (again), or do not and the worker polls."""

    healthy: bool


class Bus:
    """Tells subscribers, in order, in the thread and at the moment it happens."""

    def __init__(self) -> None:
        self._subscribers: list[tuple[type[Event], Callable[[Any], None]]] = []
        self._wanted: dict[type[Event], bool] = {}

    def subscribe(self, kind: type[E], subscriber: Callable[[E], None]) -> None:
        """Have `subscriber` called with every event of that kind, or of a kind below it."""
        self._subscribers.append((kind, subscriber))
        self._wanted.clear()

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody listens to that kind; hot paths ask before they make an event."""
        if kind not in self._wanted:
            self._wanted[kind] = any(issubclass(kind, each) for each, _ in self._subscribers)
        return self._wanted[kind]

    def emit(self, event: Event) -> None:
        """Tell everybody; a subscriber that fails is logged and harms nobody."""
        for kind, subscriber in self._subscribers:
            if isinstance(event, kind):
                try:
                    subscriber(event)
                except Exception:
                    log.exception("a subscriber of %s failed", type(event).__name__)
