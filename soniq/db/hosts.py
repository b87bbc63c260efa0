"""What a connection must do to have operations run on it, whoever it belongs to.

A host is a connection that lends itself to an operation, ours or the caller's. It runs statements,
says whether a transaction must be opened for `Atomic`, and translates its errors; the drivers know
nothing else of it. psycopg's own two are in `psycopg_hosts.py`; those of other libraries are in
`integrations/`, and found by `borrow.py`. `Host` and `AsyncHost` are twins: read one, know both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, TypeVar

from soniq.errors import SoniqError
from soniq.steps import Atomic, Batch, CopyIn, Query, Script, Steps

R = TypeVar("R")


class Host(ABC):
    """A connection, ours or the caller's, that runs statements for an operation."""

    @abstractmethod
    def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""

    def batch(self, step: Batch) -> list[list[Any]]:
        """Run several in one transaction: here one after another."""
        with self.atomic() or nullcontext():
            return [self.query(query) for query in step.queries]

    def script(self, step: Script) -> None:
        """Run a text of several statements; only on connections of ours."""
        raise TypeError(f"a {type(self).__name__} runs no scripts")

    def copy(self, step: CopyIn) -> int:
        """Stream rows in, where the library can; answer their number."""
        raise TypeError(f"a {type(self).__name__} does not copy")

    def whole(self, step: Atomic[R], drive: Callable[[Steps[R], Host], R]) -> R:
        """Do steps all or not at all; `drive` does them one by one."""
        transaction = self.atomic()
        if transaction is None:  # one is open, and covers this
            return drive(step.steps, self)
        with transaction:
            return drive(step.steps, self)

    @abstractmethod
    def atomic(self) -> AbstractContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""

    @abstractmethod
    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of the host's library into ours; None for any other."""

    def where(self) -> Hashable:
        """Name the database, equally for all connections to it; None where that is not known."""
        return None


def place_of(driver: Any) -> Hashable:
    """Name the database of a connection of psycopg or psycopg2 by what libpq says of it.

    None where there is none yet, or none any more, or it is of another library.
    """
    info = getattr(driver, "info", None)
    if info is None or driver.closed:
        return None
    return tuple(str(each).encode() for each in (info.host, info.port, info.dbname))


class AsyncHost(ABC):
    """The same for async code."""

    @abstractmethod
    async def query(self, step: Query[R]) -> list[R]:
        """Run one statement and decode its rows."""

    async def batch(self, step: Batch) -> list[list[Any]]:
        """Run several in one transaction: here one after another."""
        async with self.atomic() or nullcontext():
            return [await self.query(query) for query in step.queries]

    async def script(self, step: Script) -> None:
        """Run a text of several statements; only on connections of ours."""
        raise TypeError(f"a {type(self).__name__} runs no scripts")

    async def copy(self, step: CopyIn) -> int:
        """Stream rows in, where the library can; answer their number."""
        raise TypeError(f"a {type(self).__name__} does not copy")

    async def whole(
        self, step: Atomic[R], drive: Callable[[Steps[R], AsyncHost], Awaitable[R]]
    ) -> R:
        """Do steps all or not at all; `drive` does them one by one."""
        transaction = self.atomic()
        if transaction is None:  # one is open, and covers this
            return await drive(step.steps, self)
        async with transaction:
            return await drive(step.steps, self)

    @abstractmethod
    def atomic(self) -> AbstractAsyncContextManager[object] | None:
        """Give a transaction to enter, or None where one is open that covers what follows."""

    @abstractmethod
    def translate(self, error: Exception) -> SoniqError | None:
        """Turn an error of the host's library into ours; None for any other."""

    def where(self) -> Hashable:
        """Name the database, equally for all connections to it; None where that is not known."""
        return None
