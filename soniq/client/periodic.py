"""From what a caller says of a schedule to a plan that can be kept: everything checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypeVar, cast

from ..errors import InvalidOption, shown
from ..job.registry import Registry
from ..job.schedule import CatchUp, Overlap, Plan, Rules, Schedule
from ..job.schedule_options import (
    LONGEST_NAME,
    ScheduleOptions,
    checked_rules,
    checked_schedule_name,
    job_options,
    kept_job,
)
from ..job.task import Task, TaskRef
from ..job.timing import timing_of
from ..job.unique import UNIQUE_OPTIONS
from .building import Builder, Given, Target

T = TypeVar("T", bound=Task[..., Any])


class Planner:
    """Makes plans of schedules; one for an application.

    Args:
        registry: Where tasks are, and declared schedules are kept.
        builder: Makes jobs.
    """

    def __init__(self, registry: Registry, builder: Builder) -> None:
        self.registry = registry
        self._builder = builder

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
        """Make a plan.

        Args:
            target: What its jobs run.
            cron: When; or `every` among the options says it.
            given: The options.
            args: The arguments of its jobs.
            name: What it is called; by its task, and by its arguments if it has some.
            paused: Whether it begins paused.

        Raises:
            UsageError: Any of it cannot be.
        """
        options = job_options(given)
        rules = checked_rules(timing_of(cron, given.get("every")), given)
        plan = self._plan(target, rules, options, args, name)
        if not isinstance(paused, bool):
            raise InvalidOption(f"paused is True or False, not {shown(paused)}.")
        return replace(plan, paused=paused)

    def changed(
        self, schedule: Schedule, *, cron: object, given: ScheduleOptions, args: Given | None
    ) -> Plan:
        """Make a plan of a schedule and what is to be another way.

        Args:
            schedule: As it is.
            cron: When from now on; None and no `every` leaves it.
            given: The options that change.
            args: The arguments, if they change.

        Raises:
            UsageError: Any of it cannot be.
        """
        options = job_options(given)
        every = given.get("every")
        says_when = cron is not None or every is not None
        timing = timing_of(cron, every) if says_when else schedule.timing
        rules = checked_rules(timing, {**_options_of(schedule), **given})
        jobs = {**_jobs_of(schedule), **options}
        says = bool(jobs.keys() & set(UNIQUE_OPTIONS))
        if args is not None:
            known = self.registry.find(schedule.task) or TaskRef(schedule.task)
            plan = self._plan(known, rules, jobs, args, schedule.name)
            keeps = plan.job.placement.unique is None and not says
            return _with(plan, unique=schedule.unique) if keeps else plan
        # The arguments were checked when they came; what was made of them stays.
        plan = self._plan(TaskRef(schedule.task), rules, jobs, schedule.args, schedule.name)
        plan = _with(plan, gate=schedule.placement.gate)
        return plan if says else _with(plan, unique=schedule.unique)

    def declare(
        self,
        target: object,
        make: Callable[[Callable[..., Any]], T],
        rules: Rules,
        options: Mapping[str, Any],
        *,
        args: Given | None,
        name: str | None,
    ) -> T:
        """Keep a schedule that code declares; answer the task.

        Args:
            target: A task of this application, or a function that becomes one.
            make: Makes a task of a function, with the options.
            rules: When, and how.
            options: Of the task, if it is made here; of the schedule's jobs, if it is one already.
            args: The arguments of its jobs.
            name: What it is called.

        Raises:
            UsageError: Any of it cannot be.
        """
        task: Any = target
        if not isinstance(task, Task):
            task, options = make(task), {}
        elif self.registry.find(task.name) is None:
            raise InvalidOption(f"{shown(task)} is of another application; decorate its function.")
        options = job_options(cast("ScheduleOptions", options))
        self.registry.add_schedule(self._plan(task, rules, options, args, name))
        return task  # type: ignore[no-any-return]

    def _plan(
        self,
        target: Target,
        rules: Rules,
        options: Mapping[str, Any],
        args: Given | None,
        name: str | None,
    ) -> Plan:
        task = self._builder.resolve(target)
        if options:
            task = task.options(**options)
        job = kept_job(self._builder.one(task, (), {}, {} if args is None else args, {}))
        made = _name(task.name, json.loads(job.args)) if name is None else name
        return Plan(checked_schedule_name(made), job, rules)


def _with(plan: Plan, **changes: Any) -> Plan:
    placement = replace(plan.job.placement, **changes)
    return replace(plan, job=plan.job._replace(placement=placement))


def _options_of(schedule: Schedule) -> ScheduleOptions:
    return {
        "timezone": schedule.timezone,
        "jitter": schedule.jitter,
        "catch_up": cast("CatchUp", schedule.catch_up),
        "catch_up_max": schedule.catch_up_max,
        "overlap": cast("Overlap", schedule.overlap),
    }


def _jobs_of(schedule: Schedule) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "queue": schedule.queue,
        "priority": schedule.priority,
        "max_retries": schedule.max_attempts - 1,
        "timeout": schedule.timeout,
        "tags": schedule.tags,
    }
    return {name: value for name, value in kept.items() if value is not None}


def _name(task: str, args: Mapping[str, Any]) -> str:
    """Name a schedule by its task, and by the arguments that tell it from the task's others."""
    said = ", ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in args.items()
    )
    name = f"{task}({said})" if said else task
    if len(name) <= LONGEST_NAME:
        return name
    digest = sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}~{digest}"
