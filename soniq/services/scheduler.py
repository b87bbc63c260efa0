"""Schedules, as an application sees them: `app.scheduler`, in both colours."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from ..job.schedule import Schedule
from ..job.schedule_options import ScheduleOptions, checked_schedule_name
from ..job.task import Task
from ..job.timing import Timing
from ..settings import Settings
from ..store import declared, schedules
from ..store.declared import Deployed
from .page import AsyncRun, Run
from .plans import Given, Planner, Target, checked_count, schedules_page

if TYPE_CHECKING:
    from ..schedules import Calendar

# The classes below have a method named `list`.
Schedules: TypeAlias = list[Schedule]
Moments: TypeAlias = list[datetime]


class AsyncScheduler:
    """Makes, changes and runs schedules.

    Those that code declares can be looked at, paused, resumed and run; to change or remove one,
    change the code.
    """

    def __init__(self, run: AsyncRun, planner: Planner, settings: Settings) -> None:
        self._run = run
        self._planner = planner
        self._settings = settings

    async def add(
        self,
        target: Target,
        cron: str | Timing | Calendar | None = None,
        *,
        args: Given | None = None,
        name: str | None = None,
        paused: bool = False,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Make a schedule; no deploy touches it.

        Args:
            target: A task, a decorated function, a registered name, or a `TaskRef`.
            cron: A cron expression of five fields, or six with the seconds first; or what
                `soniq.schedules` makes, such as `daily().at("09:00")`.
            args: The arguments of its jobs, by name or by place.
            name: What the schedule is called; by its task and arguments unless said.
            paused: Whether it begins paused.
            **options: See `ScheduleOptions`; `every=` is another way to say when.

        Raises:
            UsageError: The timing, an option or the arguments cannot be.
            DuplicateSchedule: Another schedule has that name.
        """
        plan = self._planner.plan(target, cron, options, args=args, name=name, paused=paused)
        return await self._run(schedules.add, plan, self._settings.notify)

    async def update(
        self,
        name: str,
        cron: str | Timing | Calendar | None = None,
        *,
        args: Given | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Change what is given of a schedule; with another timing it is counted from now.

        Args:
            name: Which.
            cron: As for `add`.
            args: All of the arguments.
            **options: See `ScheduleOptions`.

        Raises:
            ScheduleNotFound: There is none.
            InvalidTransition: Code declared it.
            UsageError: The timing, an option or the arguments cannot be.
        """
        name = checked_schedule_name(name)
        edit = partial(self._planner.changed, cron=cron, given=options, args=args)
        return await self._run(schedules.change, name, edit, self._settings.notify)

    async def pause(self, name: str) -> bool:
        """Leave a schedule alone until it is resumed; answer whether it was not paused before.

        Raises:
            ScheduleNotFound: There is none.
        """
        return await self._run(schedules.pause, checked_schedule_name(name))

    async def resume(self, name: str) -> bool:
        """Go on from the next moment; answer whether it was paused.

        What passed while it was paused is not made up for.

        Raises:
            ScheduleNotFound: There is none.
        """
        return await self._run(schedules.resume, checked_schedule_name(name), self._settings.notify)

    async def remove(self, name: str) -> None:
        """Forget a schedule of a user, or one that is retired; its jobs stay.

        Raises:
            ScheduleNotFound: There is none.
            InvalidTransition: Code declares it.
        """
        await self._run(schedules.remove, checked_schedule_name(name))

    async def run_now(self, name: str) -> str:
        """Enqueue its job now, beside its moments, also if it is paused; answer the job's id.

        Raises:
            ScheduleNotFound: There is none.
        """
        return await self._run(
            schedules.run_now, checked_schedule_name(name), self._settings.notify
        )

    async def list(
        self,
        *,
        task: Task[..., Any] | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Schedules:
        """List one page by name; the next page is `after` the last name of this one.

        Args:
            task: Only those of this task, or of this name.
            limit: At most so many, 1 to 1000.
            after: Only names that come after this one.

        Raises:
            InvalidOption: A value is out of range or of the wrong type.
        """
        return await self._run(schedules.list_schedules, **schedules_page(task, limit, after))

    async def get(self, name: str) -> Schedule:
        """Find one.

        Raises:
            ScheduleNotFound: There is none.
        """
        return await self._run(schedules.get, checked_schedule_name(name))

    async def preview(self, name: str, count: int = 10) -> Moments:
        """Give the next moments it stands for, without jitter, as if it were not paused.

        Args:
            name: Which.
            count: How many, 1 to 1000.

        Raises:
            ScheduleNotFound: There is none.
            InvalidOption: The count is out of range.
        """
        return await self._run(
            schedules.preview, checked_schedule_name(name), checked_count(count, "count")
        )

    async def declare(self) -> Deployed:
        """Keep what the code declares now, as a worker does when it starts; answer what changed.

        What is new is added, what differs is changed, and what is gone from the code is retired.
        Of schedules of tasks this code does not have, those that another application's live
        workers have are left alone.
        """
        return await self._run(
            declared.declare,
            self._planner.registry.schedules(),
            self._planner.registry.names(),
            self._settings.heartbeat_timeout,
            self._settings.notify,
        )


class Scheduler:
    """Makes, changes and runs schedules.

    Those that code declares can be looked at, paused, resumed and run; to change or remove one,
    change the code.
    """

    def __init__(self, run: Run, planner: Planner, settings: Settings) -> None:
        self._run = run
        self._planner = planner
        self._settings = settings

    def add(
        self,
        target: Target,
        cron: str | Timing | Calendar | None = None,
        *,
        args: Given | None = None,
        name: str | None = None,
        paused: bool = False,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Make a schedule; no deploy touches it.

        Args:
            target: A task, a decorated function, a registered name, or a `TaskRef`.
            cron: A cron expression of five fields, or six with the seconds first; or what
                `soniq.schedules` makes, such as `daily().at("09:00")`.
            args: The arguments of its jobs, by name or by place.
            name: What the schedule is called; by its task and arguments unless said.
            paused: Whether it begins paused.
            **options: See `ScheduleOptions`; `every=` is another way to say when.

        Raises:
            UsageError: The timing, an option or the arguments cannot be.
            DuplicateSchedule: Another schedule has that name.
        """
        plan = self._planner.plan(target, cron, options, args=args, name=name, paused=paused)
        return self._run(schedules.add, plan, self._settings.notify)

    def update(
        self,
        name: str,
        cron: str | Timing | Calendar | None = None,
        *,
        args: Given | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Change what is given of a schedule; with another timing it is counted from now.

        Args:
            name: Which.
            cron: As for `add`.
            args: All of the arguments.
            **options: See `ScheduleOptions`.

        Raises:
            ScheduleNotFound: There is none.
            InvalidTransition: Code declared it.
            UsageError: The timing, an option or the arguments cannot be.
        """
        name = checked_schedule_name(name)
        edit = partial(self._planner.changed, cron=cron, given=options, args=args)
        return self._run(schedules.change, name, edit, self._settings.notify)

    def pause(self, name: str) -> bool:
        """Leave a schedule alone until it is resumed; answer whether it was not paused before.

        Raises:
            ScheduleNotFound: There is none.
        """
        return self._run(schedules.pause, checked_schedule_name(name))

    def resume(self, name: str) -> bool:
        """Go on from the next moment; answer whether it was paused.

        What passed while it was paused is not made up for.

        Raises:
            ScheduleNotFound: There is none.
        """
        return self._run(schedules.resume, checked_schedule_name(name), self._settings.notify)

    def remove(self, name: str) -> None:
        """Forget a schedule of a user, or one that is retired; its jobs stay.

        Raises:
            ScheduleNotFound: There is none.
            InvalidTransition: Code declares it.
        """
        self._run(schedules.remove, checked_schedule_name(name))

    def run_now(self, name: str) -> str:
        """Enqueue its job now, beside its moments, also if it is paused; answer the job's id.

        Raises:
            ScheduleNotFound: There is none.
        """
        return self._run(schedules.run_now, checked_schedule_name(name), self._settings.notify)

    def list(
        self,
        *,
        task: Task[..., Any] | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Schedules:
        """List one page by name; the next page is `after` the last name of this one.

        Args:
            task: Only those of this task, or of this name.
            limit: At most so many, 1 to 1000.
            after: Only names that come after this one.

        Raises:
            InvalidOption: A value is out of range or of the wrong type.
        """
        return self._run(schedules.list_schedules, **schedules_page(task, limit, after))

    def get(self, name: str) -> Schedule:
        """Find one.

        Raises:
            ScheduleNotFound: There is none.
        """
        return self._run(schedules.get, checked_schedule_name(name))

    def preview(self, name: str, count: int = 10) -> Moments:
        """Give the next moments it stands for, without jitter, as if it were not paused.

        Args:
            name: Which.
            count: How many, 1 to 1000.

        Raises:
            ScheduleNotFound: There is none.
            InvalidOption: The count is out of range.
        """
        return self._run(
            schedules.preview, checked_schedule_name(name), checked_count(count, "count")
        )

    def declare(self) -> Deployed:
        """Keep what the code declares now, as a worker does when it starts; answer what changed.

        What is new is added, what differs is changed, and what is gone from the code is retired.
        Of schedules of tasks this code does not have, those that another application's live
        workers have are left alone.
        """
        return self._run(
            declared.declare,
            self._planner.registry.schedules(),
            self._planner.registry.names(),
            self._settings.heartbeat_timeout,
            self._settings.notify,
        )
