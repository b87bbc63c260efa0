"""Enqueue what schedules say, at its moment."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from ..db.session import Session
from ..errors import DatabaseError, TransientError
from ..events import Bus, ScheduleFired, SchedulesDeclared
from ..job.registry import Registry
from ..settings import Settings
from ..store import declared, due
from ..store.declared import Deployed
from ..store.due import Fired, Tick
from .bell import Bell

log = logging.getLogger("soniq.schedules")

# Behind some poolers nobody hears of what is new.
LOOK_SECONDS = 5.0
# Where notifications arrive, there is still the server's clock, which may be put forward.
QUIET_LOOK_SECONDS = 30.0
# Of several schedulers one is prompt: whoever fired last. The others look so much later, half of it
# by chance, and the first that finds something overdue is the prompt one from then on.
STAND_BY_SECONDS = 0.5
# How often it is looked whether what another application declared has lost its last worker, and
# whether another took ours for lost.
DECLARED_SECONDS = 60.0
# A scheduler without a worker has no heartbeat; it is not silent before it left out two looks.
VOUCHED_SECONDS = 3 * DECLARED_SECONDS


class Scheduler:
    """Sleeps until the next moment of any schedule; any number of them may run at once.

    Args:
        session: Its connection.
        registry: The schedules that code declares, and the tasks.
        settings: How often to look, and whom to notify.
        bus: Who is told.
        bell: Rung when a schedule was added or changed.
        listening: Tells whether that is so.
        alone: Whether no worker's heartbeat tells that what is declared here is in use.
    """

    def __init__(
        self,
        session: Session,
        registry: Registry,
        settings: Settings,
        bus: Bus,
        *,
        bell: Bell,
        listening: Callable[[], bool],
        alone: bool = False,
    ) -> None:
        self._session = session
        self._registry = registry
        self._settings = settings
        self._bus = bus
        self._bell = bell
        self._listening = listening
        self._vouched_seconds = VOUCHED_SECONDS if alone else None
        self._declared = False
        self._declared_at = 0.0
        self._prompt = True

    async def run(self) -> None:
        """Run until cancelled."""
        delay = 0.1
        while True:
            try:
                pause = await self._round()
                delay = 0.1
            except DatabaseError as error:
                level = logging.WARNING if isinstance(error, TransientError) else logging.ERROR
                log.log(level, "schedules wait for the database: %s", error)
                pause = delay * (0.5 + random.random())  # noqa: S311
                delay = min(delay * 2, LOOK_SECONDS)
            await self._bell.wait(pause)

    async def once(self) -> None:
        """Enqueue whatever is due now, and no more.

        Raises:
            DatabaseError: The database refused or failed.
        """
        await self._declare()
        while (await self._look()).fired:
            pass

    async def _round(self) -> float:
        """Do what is to be done now; answer for how many seconds there is nothing."""
        if not self._declared:
            await self._declare()
        elif time.monotonic() - self._declared_at > DECLARED_SECONDS:
            await self._declare_again()
        tick = await self._look()
        if tick.fired:
            return 0.0
        stand_by = 0.0 if self._prompt else STAND_BY_SECONDS * (0.5 + random.random() / 2)  # noqa: S311
        look = min(self._settings.poll_interval, LOOK_SECONDS)
        look = QUIET_LOOK_SECONDS if self._listening() else look
        pause = look if tick.next_seconds is None else tick.next_seconds + stand_by
        return max(0.001, min(look, pause))

    async def _look(self) -> Tick:
        tick: Tick = await self._session.run(due.tick, self._settings.notify)
        if tick.due:
            self._prompt = bool(tick.fired)
        for fired in tick.fired:
            self._tell(fired)
        return tick

    def _tell(self, fired: Fired) -> None:
        schedule, firing = fired.schedule, fired.firing
        if not fired.ids:
            what = "waits for the job before" if firing.waiting else "is left out"
            log.debug("schedule %r: %s %s", schedule.name, schedule.moment, what)
            return
        late = (fired.now - schedule.next_run).total_seconds()
        self._bus.emit(
            ScheduleFired(schedule.name, schedule.task, firing.moments[-1], fired.ids, late)
        )

    async def _declare(self) -> None:
        settings, registry = self._settings, self._registry
        done = await self._session.run(
            declared.declare,
            registry.schedules(),
            registry.names(),
            settings.heartbeat_timeout,
            settings.notify,
            vouched_seconds=self._vouched_seconds,
        )
        self._told(done)

    async def _declare_again(self) -> None:
        """Bring back what is ours, and retire what no live worker knows any more.

        Nothing else: of two releases that run side by side, that one counts which started last.
        """
        done = await self._session.run(
            declared.look,
            [plan.name for plan in self._registry.schedules()],
            (),
            self._settings.heartbeat_timeout,
            vouched_seconds=self._vouched_seconds,
        )
        self._told(done)

    def _told(self, done: Deployed) -> None:
        self._declared, self._declared_at = True, time.monotonic()
        if done.added or done.changed or done.retired or done.refused:
            self._bus.emit(SchedulesDeclared(done.added, done.changed, done.retired, done.refused))
