"""What the clients of one application share: its settings, tasks, hooks and address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import settings as settings_
from ..errors import InvalidOption, UsageError, shown
from ..events import Bus
from ..job.hooks import Hooks
from ..job.registry import Registry
from ..policy.bounds import Bounds
from ..policy.waking import Waking
from .address import Home
from .building import Builder
from .options import checked_policy
from .periodic import Planner

if TYPE_CHECKING:
    from ..db.aio import Database
    from ..worker.worker import Worker


class Application:
    """One application's state, whichever of its clients is used.

    Attributes:
        settings: What it runs with.
        registry: Its tasks.
        hooks: What it wants called around its jobs.
        bus: Who is told what happens.
        builder: Makes its jobs.
        planner: Makes plans of its schedules.
        bounds: Remembers which queues may be full.
        waking: Remembers for which queues nobody was idle a moment ago.
        home: Knows where its database is.
        retry_policy: Decides delays for tasks without a policy of their own; None: their options.
        pool: The user's own pool, of the colour of the client it was given to.
        connection_factory: The same, for single connections.
        ambient: Gives a connection that the sync client uses where none is named, or None; a
            framework sets it, so that operations join the transaction its code is in.
        ambient_async: The same for the async client.
    """

    ambient: Callable[[], object | None] | None = None
    ambient_async: Callable[[], object | None] | None = None

    def __init__(
        self,
        database_url: str | None,
        pool: Any,
        connection_factory: Callable[[], Any] | None,
        retry_policy: Any,
        settings: Mapping[str, object],
    ) -> None:
        if connection_factory is not None and not callable(connection_factory):
            raise InvalidOption("connection_factory must be callable; it makes one connection.")
        if pool is not None and connection_factory is not None:
            raise InvalidOption("Give pool or connection_factory, not both.")
        self.settings = settings_.load({**settings, "database_url": database_url})
        self.registry = Registry(self.settings.task_name_pattern)
        self.hooks = Hooks()
        self.bus = Bus()
        self.builder = Builder(self.registry, self.settings)
        self.planner = Planner(self.registry, self.builder)
        self.waking = Waking(monotonic)
        self.bounds = Bounds(monotonic)
        self.pool = pool
        self.connection_factory = connection_factory
        self.home = Home(self.settings, pool, lent=pool is not None or bool(connection_factory))
        self.retry_policy = checked_policy(retry_policy)

    def share(self, other: Application) -> None:
        """Run the tasks and hooks of another application, with settings and connections of its own.

        What is declared on either from now on is declared on both.
        """
        self.registry, self.hooks, self.bus = other.registry, other.hooks, other.bus
        self.builder = Builder(self.registry, self.settings)
        self.planner = Planner(self.registry, self.builder)

    def move_to(self, database_url: str) -> None:
        """Have every connection from now on lead to another database; call it before the first.

        Raises:
            SettingsError: Connections come from the user's pool or factory.
        """
        self.home.move_to(database_url)
        self.settings = self.settings.with_(database_url=database_url)
        self.bounds.forget()

    def own_connections(self) -> dict[str, Any]:
        """Say how to connect, as the databases of `db` take it."""
        return {
            "url": self.home.url,
            "pool": self.pool,
            "connection_factory": self.connection_factory,
        }

    def other_connections(self) -> dict[str, Any]:
        """Say how to connect in the other colour, which cannot use the pool or factory of this."""
        return {"url": self.home.url}

    def worker(
        self,
        database: Database,
        concurrency: int | None,
        queues: str | Iterable[str] | None,
        *,
        run_once: bool,
    ) -> Worker:
        """Make a worker that runs this application's jobs.

        Raises:
            SettingsError: A value is out of range or of the wrong type.
        """
        from ..worker.worker import Worker

        if isinstance(queues, Iterable) and not isinstance(queues, str):
            queues = tuple(queues)
        return Worker(
            database,
            self.registry,
            self.settings.with_(concurrency=concurrency, queues=queues),
            hooks=self.hooks,
            bus=self.bus,
            retry_policy=self.retry_policy,
            run_once=run_once,
        )

    def worker_maker(
        self,
        concurrency: int | None,
        queues: str | Iterable[str] | None,
        *,
        run_once: bool,
    ) -> Callable[[], Awaitable[Worker]]:
        """Give what makes a worker within an event loop, with connections of its own."""

        async def make() -> Worker:
            from ..db.aio import Database

            database = Database(self.settings, **self.other_connections())
            return self.worker(database, concurrency, queues, run_once=run_once)

        return make


def install(plugins: Iterable[Any], client: Any) -> None:
    """Let plugins add to an application, in order.

    Raises:
        InvalidOption: They are no list, or one has no `install(app)`.
    """
    if isinstance(plugins, str) or not isinstance(plugins, Iterable):
        raise InvalidOption(f"plugins is a list of them, not {shown(plugins)}.")
    for plugin in plugins:
        if not callable(getattr(plugin, "install", None)) or isinstance(plugin, type):
            raise InvalidOption(
                f"A plugin is an object with install(app), and {shown(plugin)} is none."
            )
        plugin.install(client)


def refuse_bound(what: str) -> UsageError:
    """Make the error for what a client bound to a connection cannot do."""
    return UsageError(
        f"{what} is not for a client that is bound to a connection by within(). "
        "Call it on the client itself."
    )
