"""What the scheduler is asked for, checked, and whom it asks for plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from ..errors import InvalidOption, shown
from ..job.names import checked_name
from ..job.registry import Registry
from ..job.schedule import Plan, Schedule
from ..job.schedule_options import ScheduleOptions, checked_schedule_name
from ..job.task import Task, TaskRef

Target: TypeAlias = Task[..., Any] | TaskRef | Callable[..., Any] | str
Given: TypeAlias = Mapping[str, Any] | Iterable[Any]


class Planner(Protocol):
    """Makes plans of what is asked for; the application's."""

    registry: Registry

    def plan(
        self,
        target: Target,
        cron: object,
        given: ScheduleOptions,
        *,
        args: Given | None,
        name: str | None,
        paused: bool = False,
    ) -> Plan:
        """Make a plan."""
        ...

    def changed(
        self, schedule: Schedule, *, cron: object, given: ScheduleOptions, args: Given | None
    ) -> Plan:
        """Make a plan of a schedule and what is to be another way."""
        ...


def schedules_page(
    task: Task[..., Any] | str | None, limit: int, after: str | None
) -> dict[str, Any]:
    """Check what a page of schedules is asked for by.

    Raises:
        InvalidOption: A value is out of range or of the wrong type.
    """
    name = task.name if isinstance(task, Task) else task
    return {
        "task": None if name is None else checked_name(name, "task", 255),
        "limit": checked_count(limit, "limit"),
        "after": None if after is None else checked_schedule_name(after),
    }


def checked_count(value: int, what: str) -> int:
    """A number from 1 to 1000.

    Raises:
        InvalidOption: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise InvalidOption(f"{what} must be a whole number from 1 to 1000, not {shown(value)}.")
    return value
