"""What an operation may ask of a database: values, no I/O.

An operation is a plain generator function that yields these steps and returns its answer. Two
drivers perform them, `db/sync.py` and `db/aio.py`; so every operation is written once, and only the
waiting has two colours.

In statements, `{soniq}` stands for the quoted schema and `{channel}` for the quoted name of the
notification channel; the driver fills both in. Parameters are `%(name)s`, each within a
`CAST(... AS ...)`, because a borrowed connection may adapt values in its owner's way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, LiteralString, TypeAlias, TypeVar

R = TypeVar("R")
D = TypeVar("D")

Steps: TypeAlias = "Generator[Step[Any], Any, R]"
"""Asks for steps, ends in an R."""


class Step(Generic[R]):
    """One thing asked of the database; `yield from step` gives its answer."""

    __slots__ = ()

    def __iter__(self) -> Steps[R]:
        answer: R = yield self
        return answer


def nothing(row: Sequence[Any]) -> None:
    """Decode a row nobody reads."""


@dataclass(frozen=True, slots=True)
class Query(Step[list[R]]):
    """One statement; answers its rows, each decoded.

    Attributes:
        sql: The statement, with `{soniq}` and `%(name)s`.
        params: Values by name; text, numbers, bool, None, aware datetime, and lists of these.
        decode: Makes an R of one row, a sequence of column values.
        binary: Ask for binary results. Only for statements that never run on a borrowed connection.
    """

    sql: LiteralString
    params: Mapping[str, object] = field(default_factory=dict)
    decode: Callable[[Sequence[Any]], R] = nothing  # type: ignore[assignment]
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Where(Step[Hashable]):
    """Which database this is, known without asking it; None where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Batch(Step[list[list[Any]]]):
    """Unlike statements in one round trip and one transaction; answers the rows of each."""

    queries: Sequence[Query[Any]]


@dataclass(frozen=True, slots=True)
class Script(Step[None]):
    """Several statements in one text, without parameters: a migration."""

    sql: str


@dataclass(frozen=True, slots=True)
class CopyIn(Step[int]):
    """A stream of rows in COPY's text format; answers their number. No ids come back.

    Attributes:
        sql: `COPY ... FROM STDIN`.
        chunks: Lines already escaped and ended, so that no adapter of the caller touches them.
    """

    sql: LiteralString
    chunks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Atomic(Step[R]):
    """All or nothing here: a transaction of our own, or the caller's if one is open."""

    steps: Steps[R]
