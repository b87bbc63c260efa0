"""What both clients do without waiting: declare tasks and hooks, and hold the application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from datetime import datetime
from random import random
from time import monotonic
from typing import Any, Self, TypeVar

from ..errors import InvalidOption, InvalidTransition, JobFailed, QueueFull, WaitTimeout, shown
from ..events import Bus
from ..job.hooks import Hooks
from ..job.options import Seconds, checked_due
from ..job.outcome import seconds_of
from ..job.record import Job, JobStatus
from ..job.registry import Registry
from ..job.task import Task, default_name
from ..settings import Settings
from .application import Application, install, refuse_bound
from .options import check_executor, check_handler, model_of, task_options

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=Task[..., Any])

# A wait looks at once, then less and less often: few jobs are quicker, and none needs it sharper.
FIRST_LOOK_SECONDS = 0.01
SLOWEST_LOOK_SECONDS = 1.0
# Room in a full queue goes to whoever asks first, so who waits for it asks more often.
SLOWEST_TRY_SECONDS = 0.25


class Base:
    """An application's client; `Soniq` and `SoniqSync` add the waiting."""

    _app: Application
    _connections: dict[str, Any]
    _connection: object | None = None

    def __init__(
        self,
        database_url: str | None = None,
        *,
        pool: Any = None,
        connection_factory: Callable[[], Any] | None = None,
        plugins: Iterable[Any] = (),
        retry_policy: Any = None,
        **settings: Any,
    ) -> None:
        self._app = Application(database_url, pool, connection_factory, retry_policy, settings)
        self._connections = self._app.own_connections()
        install(plugins, self)

    def __repr__(self) -> str:
        bound = " bound to a connection" if self._connection is not None else ""
        return f"<{type(self).__name__} schema={self._app.settings.schema!r}{bound}>"

    # -- what the application is

    @property
    def settings(self) -> Settings:
        """What the application runs with."""
        return self._app.settings

    @property
    def registry(self) -> Registry:
        """The tasks declared so far."""
        return self._app.registry

    @property
    def hooks(self) -> Hooks:
        """The hooks declared so far."""
        return self._app.hooks

    @property
    def bus(self) -> Bus:
        """Where to subscribe to events of workers in this process."""
        return self._app.bus

    # -- hooks

    def before_job(self, function: F) -> F:
        """Call the decorated function with the `JobContext` before each handler."""
        self._app.hooks.before.append(_hook(function))
        return function

    def after_job(self, function: F) -> F:
        """Call the decorated function with the context and the result after each success."""
        self._app.hooks.after.append(_hook(function))
        return function

    def on_error(self, function: F) -> F:
        """Call the decorated function with the context and the error after each failure."""
        self._app.hooks.on_error.append(_hook(function))
        return function

    def middleware(self, function: F) -> F:
        """Call the decorated function with the context and `call_next` around each handler.

        What it returns is the job's result; not calling `call_next` skips the handler.
        """
        self._app.hooks.middleware.append(_hook(function))
        return function

    # -- one transaction

    def within(self, connection: object) -> Self:
        """Give the same client bound to a connection: its operations happen in its transaction.

        Args:
            connection: A connection or cursor of psycopg, or a connection or session of
                SQLAlchemy, Django, asyncpg or psycopg2, of this client's colour. It stays the
                caller's: it is never committed, rolled back or changed.
        """
        if connection is None:
            raise InvalidOption("within() needs a connection, not None.")
        twin = copy(self)
        twin._connection = connection
        return twin

    # -- for the two clients

    @classmethod
    def _of(cls, app: Application) -> Self:
        """Make the other client of an application."""
        client = cls.__new__(cls)
        client._app = app
        client._connections = app.other_connections()
        return client

    def _declare(
        self,
        make: Callable[..., T],
        function: Callable[..., Any],
        name: str | None,
        options: Mapping[str, Any],
    ) -> T:
        check_handler(function)
        defaults = task_options(options)
        check_executor(options.get("executor"), function)
        name = default_name(function) if name is None else name
        task = make(self, function, name, defaults, model_of(options))
        self._app.registry.add(task)
        return task

    def _refuse_if_bound(self, what: str) -> None:
        if self._connection is not None:
            raise refuse_bound(what)


class Waiting:
    """How long a `wait` pauses between its looks, and when it gives up.

    Args:
        timeout: Seconds in all; None is no limit.
    """

    def __init__(self, timeout: Seconds | None) -> None:
        self._timeout = None if timeout is None else seconds_of(timeout, "timeout")
        self._began = monotonic()
        self._next = FIRST_LOOK_SECONDS

    def pause(self, job: Job) -> float:
        """Choose the seconds until the next look at a job that has not ended.

        Raises:
            WaitTimeout: The time is over.
        """
        pause, self._next = self._next, min(self._next * 1.5, SLOWEST_LOOK_SECONDS)
        if self._timeout is None:
            return pause
        left = self._began + self._timeout - monotonic()
        if left <= 0:
            raise WaitTimeout(
                f"Job {job.id} ({job.task}) was still {job.status} after {self._timeout:g} s. "
                "Wait longer, or look whether a worker serves its queue."
            )
        return min(pause, left)


class Room:
    """How long an enqueue waits for room in a full queue, and when it gives up.

    Args:
        timeout: Seconds in all.
    """

    def __init__(self, timeout: float) -> None:
        self._end = monotonic() + timeout
        self._next = FIRST_LOOK_SECONDS

    def pause(self, full: QueueFull) -> float:
        """Choose the seconds until the next try.

        Raises:
            QueueFull: The queue does not ask to wait, or the time is over.
        """
        left = self._end - monotonic()
        if not full.may_wait or left <= 0:
            raise full
        # By chance, or all who wait would try at the same moments.
        pause = self._next * (0.5 + random())  # noqa: S311
        self._next = min(self._next * 1.5, SLOWEST_TRY_SECONDS)
        return min(pause, left)


def result_of(job: Job) -> Any:
    """Read a job's result.

    Raises:
        InvalidTransition: It has not ended.
        JobFailed: It was cancelled or became a dead letter.
    """
    match job.status:
        case JobStatus.DONE:
            return job.result
        case JobStatus.CANCELLED | JobStatus.DEAD_LETTER:
            what = "was cancelled" if job.status is JobStatus.CANCELLED else "is a dead letter"
            said = [f" ({job.reason})" if job.reason else ""]
            said += [f": {job.last_error}" if job.last_error else "."]
            raise JobFailed(f"Job {job.id} ({job.task}) {what}{''.join(said)}")
        case _:
            raise InvalidTransition(
                f"Job {job.id} is {job.status} and has no result yet. wait() for it first."
            )


def run_at_options(run_at: object) -> dict[str, Any]:
    """Read the moment given to `schedule`: a datetime, a timedelta, or seconds."""
    if run_at is None:
        raise InvalidOption("schedule() needs a moment: a datetime, a timedelta or seconds.")
    return {"scheduled_at": run_at} if isinstance(run_at, datetime) else {"delay": run_at}


def moved_to(scheduled_at: object, delay: object) -> Any:
    """Read the moment given to `reschedule_job`."""
    due = checked_due(scheduled_at, delay)
    if due is None:
        raise InvalidOption("reschedule_job() needs scheduled_at= or delay=.")
    return due


def _hook(function: Callable[..., Any]) -> Callable[..., Any]:
    if not callable(function):
        raise InvalidOption(f"A hook is a function, not {shown(function)}.")
    return function
