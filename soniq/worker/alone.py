"""A process that only fires schedules: `soniq scheduler`."""

from __future__ import annotations

import anyio

from ..db.aio import Database
from ..db.listen import Listener
from ..db.session import Session
from ..events import Bus
from ..job.registry import Registry
from ..schema import migrate
from ..settings import Settings
from ..store.channel import notify
from .bell import Bell
from .schedule import Scheduler


class Alone:
    """A scheduler without a worker, until it is stopped.

    Args:
        database: Where the schedules are.
        registry: What code declares.
        settings: How often to look, and whom to notify.
        bus: Who is told.
    """

    def __init__(
        self, database: Database, registry: Registry, settings: Settings, bus: Bus
    ) -> None:
        self._database = database
        self._bell = Bell()
        self._session = Session(database)
        self._listening = False
        self._scheduler = Scheduler(
            self._session,
            registry,
            settings,
            bus,
            bell=self._bell,
            listening=lambda: self._listening,
            alone=True,
        )
        self._notify = settings.notify
        self._schema = settings.schema
        self._ending = anyio.Event()
        self.started = anyio.Event()

    def stop(self) -> None:
        """End. Call it from the scheduler's loop."""
        self._ending.set()

    async def run(self) -> int:
        """Run until stopped; answer the exit code.

        Raises:
            SettingsError: The schema is missing or does not fit.
            DatabaseError: The database could not be reached at the start.
        """
        try:
            await self._session.run(migrate.require)
            async with anyio.create_task_group() as loops:
                loops.start_soon(self._scheduler.run)
                loops.start_soon(self._listener().run)
                self.started.set()
                await self._ending.wait()
                loops.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._session.close()
        return 0

    async def close(self) -> None:
        """Close the pool of its database in this event loop; for whoever made both."""
        await self._database.close()

    def _listener(self) -> Listener:
        return Listener(
            self._database,
            self._schema,
            self._heard,
            poke=self._poke,
            on_state=self._hears,
        )

    def _hears(self, healthy: bool) -> None:
        self._listening = healthy and self._notify != "off"
        self._bell.ring()

    async def _poke(self, message: str) -> None:
        await self._database.run(notify, message)

    def _heard(self, message: str) -> None:
        if message.startswith("s:"):
            self._bell.ring()
