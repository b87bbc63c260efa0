"""A connection of its own for a loop of a worker, for as long as that runs."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

import anyio

from soniq.errors import ReadOnlyServer, SoniqError
from soniq.steps import Batch, Query, Steps

from . import faults, planner
from .aio import Database, drive
from .connection import AnyioConnection
from .pool import answers
from .psycopg_hosts import AsyncPsycopgHost, outside_transaction, quiet

R = TypeVar("R")


class _PooledHost(AsyncPsycopgHost):
    """Behind a pooler, what a session cannot be told once is told with each statement."""

    __slots__ = ()

    async def query(self, step: Query[R]) -> list[R]:
        """Run one statement, in the transaction of its settings; one round trip."""
        *_, rows = await self.batch(Batch((*planner.LOCAL, step)))
        return rows


class Session:
    """A connection of its own for one loop of a worker: made at first use, and again when it broke.

    One operation runs at a time; a second one waits.

    Args:
        database: Whose.
        steady: Keep its statements to their indexes.
    """

    def __init__(self, database: Database, *, steady: bool = True) -> None:
        self._database = database
        self._steady = steady
        self._connection: AnyioConnection | None = None
        self._plans = planner.Plans()
        self._turn = anyio.Lock(fast_acquire=True)

    async def run(
        self,
        operation: Callable[..., Steps[R]],
        *args: object,
        timeout: float | None = None,  # noqa: ASYNC109  a scope for each call costs 10 us
        **kwargs: object,
    ) -> R:
        """Perform an operation.

        Args:
            operation: The operation; type checkers do not hold its arguments against it here.
            *args: Its arguments.
            timeout: Seconds any one answer may take; `statement_timeout` by default.
            **kwargs: Its arguments by name.

        Raises:
            DatabaseTimeout: It took longer; the connection was given up.
            ConnectionLost: The connection broke, or none could be made; try again after a while.
            SoniqError: What else the operation or the database raised.
        """
        limit = timeout or self._database.settings.statement_timeout
        async with self._turn:
            connection = await self._live(limit)
            connection.limit = limit
            pooled = connection.prepare_threshold is None
            make = _PooledHost if pooled and self._steady else AsyncPsycopgHost
            host = make(connection, self._database.settings.schema, own=True)
            began = monotonic()
            try:
                if self._plans.stale and not pooled:
                    await drive(iter(planner.DISCARD), host)
                    self._plans.stale = False
                return await drive(operation(*args, **kwargs), host)
            except SoniqError as error:
                # It may have been demoted: a new connection looks for the primary.
                host.spent = host.spent or isinstance(error, ReadOnlyServer)
                raise faults.trimmed(error)  # noqa: B904
            finally:
                self._plans.took((now := monotonic()) - began, now)
                if host.spent or not outside_transaction(connection):
                    await self.close()

    async def close(self) -> None:
        """Close the connection; a later use makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _live(self, seconds: float) -> AnyioConnection:
        connection = self._connection
        if connection is not None and (quiet(connection) or await answers(connection)):
            return connection
        await self.close()
        with anyio.move_on_after(seconds):
            self._connection = await self._database.connect(steady=self._steady)
            return self._connection
        raise faults.unreachable(seconds)
