"""Functions whose annotations are texts, because of the line below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soniq.job import JobContext

if TYPE_CHECKING:
    from decimal import Decimal as Unknown


def as_text(a: int, ctx: JobContext) -> Any:
    return a, ctx


def beside_unknown(a: Unknown, ctx: JobContext | None) -> Any:
    return a, ctx


def quoted_twice(a: Unknown, run: "JobContext") -> Any:  # noqa: UP037
    return a, run


def not_a_context(a: int, ctx: Unknown) -> Any:
    return a, ctx
