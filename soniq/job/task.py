"""The task: a function with a name, options and a known way to store its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Generic, ParamSpec, Self, TypeVar

from ..errors import InvalidOption, shown
from .arguments import Arguments
from .names import checked_name
from .options import (
    PLAIN,
    EnqueueOptions,
    TaskOptions,
    checked_queue,
    enqueue_options,
)

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A decorated function; called like the function, and enqueued by its client's `enqueue`.

    Attributes:
        name: What jobs call it; the same in every process.
        function: The handler itself.
        defaults: Options the decorator was given.
        chosen: Options laid over them by `options()`.
        is_async: Whether the handler is an `async def`.
        apart: Whether it runs in a process of its own.
    """

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        defaults: TaskOptions,
        validate: type | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.defaults = defaults
        self.chosen = PLAIN
        self.arguments = Arguments(function, validate)
        limits = defaults.limits
        if limits is not None and isinstance(limits.key, str):
            self._check_key(limits.key)
        self.is_async = iscoroutinefunction(function)
        self.apart = defaults.executor == "process"
        # Without what lies on the function: an attribute called `name` would be the task's name.
        update_wrapper(self, function, updated=())

    def _check_key(self, key: str) -> None:
        if not self.arguments.takes(key):
            raise InvalidOption(
                f"A limit of {self.name} goes by {shown(key)}, and it has no such parameter. "
                f"Its parameters: {', '.join(self.arguments.names) or 'none'}."
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now; no job is made."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"

    def options(self, **options: Any) -> Self:
        """Copy the task with other options for the jobs enqueued through the copy.

        Args:
            **options: `queue`, `priority`, `scheduled_at`, `delay`, `max_retries`, `timeout`,
                `tags`, `unique`, `dedup_key`, `unique_while`, `unique_for`, `on_conflict`, `merge`.

        Raises:
            UnknownOption: No option has that name.
            InvalidOption: A value is out of range or of the wrong type.
        """
        twin = copy(self)
        twin.chosen = enqueue_options(options).over(self.chosen)
        return twin

    def gate(self, bound: Mapping[str, Any]) -> str | None:
        """Name what limits a job with these arguments; None is nothing.

        Raises:
            InvalidArguments: They make no key for the limit.
        """
        limits = self.defaults.limits
        return None if limits is None else limits.gate({**self.arguments.defaults, **bound})

    def call(self, *args: Any, **kwargs: Any) -> Call:
        """Keep a call for `enqueue_many`.

        Raises:
            InvalidArguments: The arguments do not fit.
        """
        return Call(self, self.arguments.bind(args, kwargs))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a task, not yet enqueued; its arguments by name."""

    task: Task[..., Any]
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task whose code lives in another process, known by its name only.

    Attributes:
        name: What its worker calls it.
        queue: Where its jobs go unless the enqueue says otherwise.
        chosen: Options laid over that by `options()`.
    """

    name: str
    queue: str = "default"
    chosen: EnqueueOptions = field(default=PLAIN)

    def __post_init__(self) -> None:
        checked_name(self.name, "a task's name", 255)
        checked_queue(self.queue)

    def options(self, **options: Any) -> TaskRef:
        """Copy with other options for the jobs enqueued through the copy, as `Task.options`.

        Raises:
            UnknownOption: No option has that name.
            InvalidOption: A value is out of range or of the wrong type.
        """
        return replace(self, chosen=enqueue_options(options).over(self.chosen))


def default_name(function: Callable[..., Any]) -> str:
    """Name a function `module.qualname`, the same whether its module was imported or run.

    A module that was run calls itself `__main__`; a worker that imports it knows its real name.
    """
    module = real_module(function).removesuffix(".__main__")
    return f"{module}.{function.__qualname__}"


def real_module(function: Callable[..., Any]) -> str:
    """Name the module a function is from, as other processes import it."""
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None:
            module = spec.name
        elif file is not None:
            module = Path(file).stem
    return module
