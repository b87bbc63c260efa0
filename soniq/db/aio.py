"""Operations performed on async connections; `sync.py` is its twin.

`drive` runs a generator of steps on a host. `Database` lends the host: a connection of its pool, or
the caller's.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import anyio
import psycopg

from soniq.errors import ReadOnlyServer, SoniqError
from soniq.settings import Settings
from soniq.steps import Atomic, Batch, CopyIn, Query, Script, Step, Steps, Where

from . import faults, planner
from .borrow import borrowed_async
from .connection import AnyioConnection
from .conninfo import Address
from .hosts import AsyncHost
from .loops import on_trio
from .pool import AnyioPool, LentPool, Pool
from .pooling import checked_connection
from .psycopg_hosts import AsyncPsycopgHost

P = ParamSpec("P")
R = TypeVar("R")


async def drive(steps: Steps[R], host: AsyncHost) -> R:
    """Run an operation: do each step it asks for, and hand it the answer or the error.

    An error is raised within the operation, at its `yield`, so that it may catch it; a cancellation
    is not: it only closes the operation.
    """
    resume: Callable[[Any], Step[Any]] = steps.send
    answer: Any = None
    try:
        while True:
            try:
                step = resume(answer)
            except StopIteration as end:
                result: R = end.value
                return result
            try:
                kind = type(step)
                if kind is Query:  # nearly always; these two cost no further coroutine
                    answer = await host.query(step)  # type: ignore[arg-type]
                elif kind is Where:
                    answer = host.where()
                else:
                    answer = await _perform(step, host)
                resume = steps.send
            except Exception as error:  # noqa: BLE001
                answer = host.translate(error) or error
                resume = steps.throw
    finally:
        steps.close()


async def _perform(step: Step[Any], host: AsyncHost) -> Any:
    match step:
        case Batch():
            return await host.batch(step)
        case Script():
            return await host.script(step)
        case CopyIn():
            return await host.copy(step)
        case Atomic():
            return await _all_or_nothing(step, host)
        case _:
            raise TypeError(f"{type(step).__name__} is no step that a driver knows")


async def _all_or_nothing(step: Atomic[R], host: AsyncHost) -> R:
    try:
        return await host.whole(step, drive)
    finally:
        step.steps.close()  # it was not even started if there was no transaction to be had


@dataclass(slots=True)
class _Here:
    """A pool, and where it may be used: sockets belong to a process and to an event loop."""

    pid: int
    loop: object
    pool: Pool

    def over(self) -> bool:
        """Tell whether nobody can use it any more."""
        return self.pid != os.getpid() or _ended(self.loop)


class Database:
    """What a client or a worker holds; connects at first use.

    Args:
        settings: Sizes, time limits, schema.
        url: Gives the URL at first use; called in a thread, as it may start a server.
        pool: The user's own, of psycopg_pool or with its methods; open, and closed by them.
        connection_factory: Makes a connection, async or not, instead of the URL; for passwords
            that expire. `AnyioConnection.connect` makes the ones that are safe to cancel.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        url: Callable[[], str],
        pool: Any = None,
        connection_factory: Callable[[], Any] | None = None,
    ) -> None:
        self.settings = settings
        self.url = url
        self._schema = settings.schema
        self._address = Address(url, settings)
        self._given = pool
        self._factory = connection_factory
        self._pools: list[_Here] = []
        self._latest: _Here | None = None

    async def run(self, operation: Callable[P, Steps[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Perform an operation on a connection of the pool.

        Raises:
            SoniqError: What the operation raised, or the database, in Soniq's terms.
        """
        pool = self._pool()
        connection = await pool.checkout()
        connection.limit = self.settings.statement_timeout
        host = AsyncPsycopgHost(connection, self._schema, own=True)
        try:
            return await drive(operation(*args, **kwargs), host)
        except SoniqError as error:
            if isinstance(error, ReadOnlyServer):
                await pool.renew()
            raise faults.trimmed(error)  # noqa: B904
        finally:
            connection.limit = None
            if host.spent:
                await connection.close()
            await pool.give_back(connection)

    async def run_on(
        self,
        connection: object,
        operation: Callable[P, Steps[R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Perform an operation on the caller's connection, inside their transaction if one is open.

        It never commits, rolls back or changes a setting there.

        Raises:
            UnknownConnection: The object is not a connection this client can use.
            SoniqError: What the operation raised, or the database, in Soniq's terms.
        """
        host = borrowed_async(connection, self._schema)
        try:
            return await drive(operation(*args, **kwargs), host)
        except SoniqError as error:
            raise faults.trimmed(error)  # noqa: B904

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[AnyioConnection]:
        """Lend a connection of the pool, in autocommit."""
        pool = self._pool()
        connection = await pool.checkout()
        try:
            yield connection
        except (ReadOnlyServer, psycopg.errors.ReadOnlySqlTransaction):
            await connection.close()
            await pool.renew()
            raise
        finally:
            await pool.give_back(connection)

    async def connect(self, url: str | None = None, *, steady: bool = False) -> AnyioConnection:
        """Make a connection outside the pool, in autocommit; the caller closes it.

        Args:
            url: Another address than the database's.
            steady: Only a worker's statements run on it: keep them to their indexes.

        Raises:
            ConnectionLost: The server did not answer.
            AccessDenied: It refused the user.
            SettingsError: The URL is malformed, or names no database.
        """
        try:
            connection = await self._dialled(url)
        except psycopg.Error as error:
            raise faults.translate(error, self._schema) from error
        try:
            await self._set_up(connection, steady=steady)
        except psycopg.Error as error:
            await connection.close()
            raise faults.translate(error, self._schema, lost=True) from error
        except BaseException:
            await connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Close the pool; a later use opens another."""
        here, self._latest = self._latest, None
        self._tidy()
        if here in self._pools:
            self._pools.remove(here)
            await here.pool.close()

    def leave(self) -> None:
        """Drop the pools without waiting; a connection in use is closed when it comes back.

        For code that is in no event loop, and no loop of theirs may be running.
        """
        here, self._pools, self._latest = self._pools, [], None
        for each in here:
            each.pool.forget()

    def _pool(self) -> Pool:
        here = self._latest
        if here is None or here.pid != os.getpid() or here.loop is not _loop():
            here = self._latest = self._open()
        return here.pool

    def _open(self) -> _Here:
        self._tidy()
        loop = _loop()
        for here in self._pools:
            if here.loop is loop:
                return here
        pool = LentPool(self._given, self.settings) if self._given else self._own_pool()
        here = _Here(os.getpid(), loop, pool)
        self._pools.append(here)
        return here

    def _own_pool(self) -> Pool:
        return AnyioPool(self.connect, self.settings)

    def _tidy(self) -> None:
        """Let go of pools of a parent process or of an ended event loop."""
        for here in [here for here in self._pools if here.over()]:
            self._pools.remove(here)
            here.pool.forget()

    async def _dialled(self, url: str | None) -> AnyioConnection:
        if url is None and self._factory is not None:
            made = self._factory()
            made = await made if inspect.isawaitable(made) else made
            connection: Any = checked_connection(made, psycopg.AsyncConnection)
            await connection.set_autocommit(True)
            return connection  # type: ignore[no-any-return]
        address = self._address if url is None else Address(lambda: url, self.settings)
        if address.known:  # a thread is not needed, and after a fork trio may not have any
            parameters = address.parameters()
        else:
            parameters = await anyio.to_thread.run_sync(address.parameters)
        return await AnyioConnection.connect(autocommit=True, **parameters)

    async def _set_up(self, connection: AnyioConnection, *, steady: bool) -> None:
        # A pooler hands each transaction to another server connection, which knows nothing of
        # statements prepared on the last one. It makes up the process id it tells us.
        pooled = self.settings.pgbouncer
        connection.patience = self.settings.statement_timeout
        if not pooled:
            connection.limit = self.settings.connect_timeout
            cursor = await connection.execute("SELECT pg_catalog.pg_backend_pid()")
            row = await cursor.fetchone()
            pooled = row is None or row[0] != connection.info.backend_pid
            if steady and not pooled:  # a pooler would hand the settings on to others
                await connection.execute(planner.SESSION.sql)
            connection.limit = None
        if pooled:
            connection.prepare_threshold = None


def _loop() -> object:
    """Give what tells one run of an event loop from another."""
    if on_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def _ended(loop: Any) -> bool:
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    try:
        loop.run_sync_soon(lambda: None)
    except Exception:  # noqa: BLE001  trio.RunFinishedError, without importing trio
        return True
    return False
