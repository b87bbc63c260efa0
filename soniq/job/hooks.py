"""What an application wants to have called around its jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Hooks:
    """Functions, `def` or `async def`, in the order they were declared.

    Attributes:
        before: Called with the `JobContext` before the handler.
        after: Called with the context and the result after the handler returned.
        on_error: Called with the context and the error after an attempt failed for good or not.
        middleware: Called with the context and `call_next`; what it returns is the result.
        thread_end: Called, without arguments, in each thread of `def` jobs before it ends.
    """

    before: list[Callable[..., Any]] = field(default_factory=list)
    after: list[Callable[..., Any]] = field(default_factory=list)
    on_error: list[Callable[..., Any]] = field(default_factory=list)
    middleware: list[Callable[..., Any]] = field(default_factory=list)
    thread_end: list[Callable[[], object]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.on_error or self.middleware)
