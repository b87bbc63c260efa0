"""The sync client; `aio.py` is its twin. Using it to enqueue starts no event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Protocol, Self, Unpack, overload

from ..errors import DatabaseMissing
from ..job.context import JobContext
from ..job.options import Seconds, TaskOptions
from ..job.schedule import CatchUp, Overlap
from ..job.schedule_options import ScheduleOptions, checked_rules
from ..job.task import P, R, Task
from ..job.timing import Timing, timing_of
from ..schema import migrate
from .backend import Backend
from .building import Given
from .options import JobOptions
from .sync_jobs import SyncJobs

if TYPE_CHECKING:
    from ..schedules import Calendar
    from ..worker.worker import Worker


class SyncTask(Task[P, R]):
    """A decorated function of a sync client; called like the function."""

    def __init__(
        self,
        client: SoniqSync,
        function: Callable[P, R],
        name: str,
        defaults: TaskOptions,
        validate: type | None = None,
    ) -> None:
        super().__init__(function, name, defaults, validate)
        self._client = client

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Store a call of the task as a job; answer the job's id.

        Every argument is the function's; options go before: `task.options(delay=5).enqueue(...)`.

        Raises:
            UsageError: The call cannot be stored; its branches say why.
            DatabaseError: The database refused or failed.
        """
        bound = self.arguments.bind(args, kwargs)
        return self._client._store(self._client._app.builder.bound(self, bound))


class SyncDecorator(Protocol):
    """What `@eq.job(...)` answers."""

    @overload
    def __call__(self, function: Callable[Concatenate[JobContext, P], R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...


class SyncPeriodic(Protocol):
    """What `@eq.periodic(...)` answers."""

    @overload
    def __call__(self, target: SyncTask[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, target: Callable[Concatenate[JobContext, P], R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> SyncTask[P, R]: ...


class SoniqSync(SyncJobs):
    """An application, for sync code; it does no I/O until it is used.

    Args:
        database_url: A libpq URL or conninfo. None: the setting, or the embedded PostgreSQL.
        pool: Your own `psycopg_pool` pool, open; it stays yours to close.
        connection_factory: Makes a connection instead of the URL; for passwords that expire.
        plugins: Objects with `install(app)`, called in order.
        retry_policy: Called with (error, attempt, job) for tasks that have no policy of their
            own; answers seconds until the next attempt, or None for no more.
        **settings: Any setting by its name.

    Raises:
        UnknownOption: A keyword that is no setting.
        SettingsError: A setting of the wrong type or out of range.
    """

    # -- declaring

    @overload
    def job(
        self, name: Callable[Concatenate[JobContext, P], R], **options: Unpack[JobOptions]
    ) -> SyncTask[P, R]: ...
    @overload
    def job(self, name: Callable[P, R], **options: Unpack[JobOptions]) -> SyncTask[P, R]: ...
    @overload
    def job(self, name: str | None = None, **options: Unpack[JobOptions]) -> SyncDecorator: ...
    def job(self, name: Any = None, **options: Any) -> Any:
        """Declare the decorated function as a task; use with or without parentheses.

        A parameter annotated with `JobContext` is filled in by the worker.

        Args:
            name: The task's name; `module.function` unless said.
            **options: See `JobOptions`.

        Raises:
            UnknownOption: No option has that name.
            InvalidOption: An option, the name or the function cannot be.
            DuplicateTask: Another function has that name.
        """
        if callable(name):
            return self._declare(SyncTask, name, None, options)
        return lambda function: self._declare(SyncTask, function, name, options)

    def periodic(
        self,
        cron: str | Timing | Calendar | None = None,
        *,
        every: Seconds | Timing | None = None,
        timezone: str = "UTC",
        jitter: Seconds | None = None,
        catch_up: CatchUp = "one",
        catch_up_max: int = 100,
        overlap: Overlap = "allow",
        args: Given | None = None,
        name: str | None = None,
        **options: Unpack[JobOptions],
    ) -> SyncPeriodic:
        """Declare a schedule of the decorated task; a function becomes a task first.

        Above a task, or above another `periodic`, it adds a schedule to that task. What is declared
        is kept in the database when a worker or `soniq scheduler` starts.

        Args:
            cron: A cron expression of five fields, or six with the seconds first; or what
                `soniq.schedules` makes, such as `daily().at("09:00")`.
            every: Seconds between two runs, at least one, or a timedelta, instead.
            timezone: The IANA name of the zone whose clock counts.
            jitter: Put each run off by up to so many seconds.
            catch_up: Of moments that passed while no scheduler ran, make up for `one`, for `all`,
                or `skip` them.
            catch_up_max: With `all`, for so many at most, the latest.
            overlap: While the job before has not ended, `allow` another, `skip` it, or `queue` it:
                enqueue it when that one has ended.
            args: The arguments of its jobs, by name or by place.
            name: What the schedule is called; by its task and arguments unless said.
            **options: Of the task, if it is made here; see `JobOptions`. Above a task, of this
                schedule's jobs: `queue`, `priority`, `max_retries`, `timeout`, `tags`.

        Raises:
            UsageError: The timing, an option or the arguments cannot be.
            DuplicateSchedule: Another schedule has that name.
        """
        given: ScheduleOptions = {
            "timezone": timezone,
            "jitter": 0.0 if jitter is None else jitter,
            "catch_up": catch_up,
            "catch_up_max": catch_up_max,
            "overlap": overlap,
        }
        rules = checked_rules(timing_of(cron, every), given)

        def decorate(target: Any) -> Any:
            return self._app.planner.declare(
                target,
                lambda function: self._declare(SyncTask, function, None, options),
                rules,
                options,
                args=args,
                name=name,
            )

        return decorate

    # -- the database

    @property
    def backend(self) -> Backend:
        """The pool's connections, for SQL of your own."""
        self._refuse_if_bound("backend")
        return Backend(self._database)

    def setup(self) -> list[str]:
        """Create the database if it is missing, and bring its schema up to date.

        Any number of processes may do this at once.

        Returns:
            The names of the migrations applied now.

        Raises:
            SchemaTooNew: The database's schema is newer than this code.
            AccessDenied: The role may not.
        """
        self._refuse_if_bound("setup()")
        try:
            applied = self._run(migrate.setup)
        except DatabaseMissing:
            self._app.home.create_database()
            applied = self._run(migrate.setup)
        return [*self._app.home.take_applied(), *applied]

    def ensure_initialized(self) -> None:
        """Connect, and check that the schema is there and fits.

        The embedded PostgreSQL is started and set up; any other needs `setup` once.

        Raises:
            SchemaMissing: There is none, or an older one.
            SchemaTooNew: It is newer than this code.
            DatabaseError: The database could not be reached.
        """
        self._run(migrate.require)

    def close(self) -> None:
        """Close the pool; a later use opens another."""
        self._refuse_if_bound("close()")
        if (database := self.__dict__.get("_opened")) is not None:
            database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._connection is None:
            self.close()

    # -- working

    def run_worker(
        self,
        concurrency: int | None = None,
        run_once: bool = False,
        queues: Iterable[str] | None = None,
    ) -> int:
        """Run a worker until SIGTERM or SIGINT, or a cancellation; answer its exit code.

        Args:
            concurrency: Jobs at once; the setting unless said.
            run_once: Stop when nothing is due any more.
            queues: Serve only these; the setting unless said.

        Returns:
            0, or 1 when threads did not end and their jobs were left to other workers.

        Raises:
            SettingsError: The schema is missing, or a value cannot be.
            DatabaseError: The database could not be reached at the start.
        """
        from ..worker import embed

        return embed.run(self._worker(concurrency, queues, run_once=run_once))

    @contextmanager
    def start_worker(
        self, concurrency: int | None = None, queues: Iterable[str] | None = None
    ) -> Iterator[Worker]:
        """Run a worker beside the block; at its end it is drained.

        Args:
            concurrency: Jobs at once; the setting unless said.
            queues: Serve only these; the setting unless said.

        Raises:
            SettingsError: The schema is missing, or a value cannot be.
            DatabaseError: The database could not be reached at the start.
        """
        from ..worker.beside import in_thread

        with in_thread(self._worker(concurrency, queues)) as worker:
            yield worker

    # -- within

    def _worker(
        self,
        concurrency: int | None,
        queues: Iterable[str] | None,
        *,
        run_once: bool = False,
    ) -> Callable[[], Awaitable[Worker]]:
        self._refuse_if_bound("A worker")
        return self._app.worker_maker(concurrency, queues, run_once=run_once)
