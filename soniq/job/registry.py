"""The tasks one application knows, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from ..errors import DuplicateSchedule, DuplicateTask, InvalidOption, UnknownTask, shown
from .names import checked_name
from .schedule import Plan
from .task import Task


class Registry:
    """Names and their tasks; one for an application, shared by its two clients.

    Args:
        pattern: A regular expression every name must match in full, or None.
    """

    def __init__(self, pattern: str | None = None) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._schedules: dict[str, Plan] = {}
        self._pattern = pattern

    def __iter__(self) -> Iterator[Task[..., Any]]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def names(self) -> list[str]:
        """List the names, in order."""
        return sorted(self._tasks)

    def add(self, task: Task[..., Any]) -> None:
        """Take a task in.

        Raises:
            DuplicateTask: Another function has that name. (The same function again, as after a
                module was reloaded, takes the old one's place.)
            InvalidOption: The name is empty, too long, or against the pattern.
        """
        checked_name(task.name, "a task's name", 255)
        if self._pattern and not re.fullmatch(self._pattern, task.name):
            raise InvalidOption(
                f"The task name {task.name!r} does not match task_name_pattern {self._pattern!r}."
            )
        old = self._tasks.get(task.name)
        if old is not None and _origin(old) != _origin(task):
            raise DuplicateTask(
                f"Two tasks are named {task.name!r}: {_origin(old)} and {_origin(task)}. "
                "Give one of them another name: @eq.job(name=...)."
            )
        if old is not None:  # its module declares its schedules anew
            for plan in self.schedules():
                if plan.job.placement.task == task.name:
                    del self._schedules[plan.name]
        self._tasks[task.name] = task

    def schedules(self) -> list[Plan]:
        """List the schedules that were declared, in order."""
        return list(self._schedules.values())

    def add_schedule(self, plan: Plan) -> None:
        """Take a declared schedule in.

        Raises:
            DuplicateSchedule: There is one of that name.
        """
        if (old := self._schedules.get(plan.name)) is not None:
            raise DuplicateSchedule(
                f"Two schedules are named {plan.name!r}: of the tasks {old.job.placement.task!r} "
                f"and {plan.job.placement.task!r}. Give one of them a name: periodic(name=...)."
            )
        self._schedules[plan.name] = plan

    def find(self, name: str) -> Task[..., Any] | None:
        """Return the task of that name, or None."""
        return self._tasks.get(name)

    def get(self, name: str) -> Task[..., Any]:
        """Return the task of that name.

        Raises:
            UnknownTask: With the nearest names.
        """
        if (task := self._tasks.get(name)) is not None:
            return task
        near = get_close_matches(name, self._tasks, n=3, cutoff=0.5)
        hint = f"Nearest: {', '.join(near)}. " if near else ""
        raise UnknownTask(
            f"No task is named {shown(name)}. {hint}Import its module, name it in "
            "SONIQ_JOBS_MODULES, or enqueue TaskRef(name) if its code lives elsewhere."
        )


def _origin(task: Task[..., Any]) -> str:
    code = getattr(task.function, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else "?"
    return f"{task.function.__module__}.{task.function.__qualname__} ({where})"
