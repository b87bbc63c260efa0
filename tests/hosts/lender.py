"""What a case asks of whoever lends a connection, in sync and async code alike.

Cases are coroutines for both: those of a sync lender never wait, and are run without an event loop,
as Django insists on.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, TypeAlias, TypeVar
from uuid import uuid4

import psycopg
from clients.colour import settled
from psycopg.conninfo import conninfo_to_dict

from soniq import Soniq, SoniqSync
from soniq.job.record import NewJob
from soniq.policy.waking import Waking
from soniq.steps import Atomic, Steps
from soniq.store import jobs

R = TypeVar("R")


class Oops(Exception):
    """Raised by the caller's own code, in the middle of their transaction."""


@dataclass(frozen=True)
class Place:
    """The databases of the suite.

    Attributes:
        url: One with Soniq's schema.
        elsewhere: One without.
        folder: What the processes of a run of the suite share.
    """

    url: str
    elsewhere: str
    folder: Path | None = None


class Lender(ABC):
    """A library's connection, opened and used as its manual says.

    Attributes:
        title: What the matrix calls it.
        is_async: Which client takes it.
        inapplicable: The names of cases that mean nothing here.
    """

    title: ClassVar[str]
    is_async: ClassVar[bool] = False
    inapplicable: ClassVar[tuple[str, ...]] = ()

    eq: Any
    task: Any

    def __init__(self, place: Place) -> None:
        self.place = place
        self.queue = f"q{uuid4().hex}"

    # -- for each library

    @abstractmethod
    async def open(self, url: str) -> None:
        """Connect to a database."""

    @abstractmethod
    async def close(self) -> None:
        """Give back and close what was opened, in whatever state it is."""

    @property
    @abstractmethod
    def lent(self) -> Any:
        """What is passed as `connection=`."""

    @abstractmethod
    def transaction(self, *, undo: bool = False) -> AbstractAsyncContextManager[Any]:
        """Begin, and commit at the end; or roll back there, by the library's own call."""

    @abstractmethod
    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        """Nest in the transaction; an exception takes back only what is inside."""

    @abstractmethod
    async def value(self, sql: str) -> Any:
        """Run a statement of the caller's; answer the first column of its first row."""

    @abstractmethod
    async def commit_each(self) -> None:
        """Have each statement outside of a transaction be its own, if it is not so already."""

    @abstractmethod
    async def dress_up(self) -> None:
        """Set up the connection as few callers do: row factories, codecs and what there is."""

    @abstractmethod
    async def dress(self) -> Any:
        """Show what was set up, and what it makes of an answer."""

    @abstractmethod
    async def shut(self) -> None:
        """Close the connection, while it is still lent."""

    # -- for all

    @classmethod
    def run(cls, case: Case, place: Place) -> None:
        """Run a case on a lender of its own."""
        drive = asyncio.run if cls.is_async else without_loop
        drive(cls(place).whole(case))

    async def whole(self, case: Case) -> None:
        self.eq = (Soniq if self.is_async else SoniqSync)(self.place.url)
        self.task = self.eq.job("work", queue=self.queue)(work)
        await self.open(self.place.url)
        try:
            await case(self)
        finally:
            await self.close()
            await settled(self.eq.close())

    async def enqueue(self, n: Any = 1, **options: Any) -> str:
        return str(await settled(self.eq.enqueue(self.task, n, connection=self.lent, **options)))

    async def store_whole(self, *numbers: int, twice: bool = False) -> None:
        """Store jobs, all or none, by a statement for each; the second of the same fails."""
        made = [self.eq._app.builder.one(self.task, (n,), {}, None, {}) for n in numbers]
        await settled(self.eq._database.run_on(self.lent, whole, made * (1 + twice)))

    async def pid(self) -> int:
        return int(await self.value("SELECT pg_backend_pid()"))

    def stored(self) -> list[Any]:
        """The arguments of the jobs that others can see, oldest first."""
        sql = "SELECT args->'n' FROM soniq.jobs WHERE queue = %s ORDER BY id"
        return [row[0] for row in look(self.place.url, sql, self.queue)]


Case: TypeAlias = Callable[[Lender], Coroutine[Any, Any, None]]


def work(n: Any) -> None: ...


def whole(made: list[NewJob]) -> Steps[None]:
    def each() -> Steps[None]:
        for job in made:
            yield from jobs.enqueue(job, "auto", Waking(monotonic))

    yield from Atomic(each())


def without_loop(coroutine: Coroutine[Any, Any, R]) -> R:
    try:
        coroutine.send(None)
    except StopIteration as end:
        answer: R = end.value
        return answer
    coroutine.close()
    raise AssertionError("a case of a sync lender waits for something")


def look(url: str, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    """Ask a database from outside of whatever goes on."""
    if url not in _witnesses:
        _witnesses[url] = psycopg.connect(url, autocommit=True)
    return _witnesses[url].execute(sql.encode(), params).fetchall()


_witnesses: dict[str, psycopg.Connection[Any]] = {}


def stop_looking() -> None:
    while _witnesses:
        _witnesses.popitem()[1].close()


def terminate(url: str, pid: int) -> None:
    """Break a connection from the server's side; back when it is gone."""
    assert look(url, "SELECT pg_terminate_backend(%s, 10000)", pid) == [(True,)]


def parts(url: str, database: str = "dbname") -> dict[str, str]:
    """Take a URL apart, for libraries that want host, port and so on by themselves."""
    found = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    found[database] = found.pop("dbname")
    return found
