"""The pool of the async client, on anyio alone, for asyncio and trio alike.

Why not `psycopg_pool.AsyncConnectionPool`: it cannot run on trio ("open with no running loop"), and
after the server restarts, down for 0.3 s, it hands out good connections again after 3.6 s, since it
waits 1 s before it connects again and doubles that; this one does after 0.3 s (50 ms, doubling to
5 s, with jitter). One checkout with a `select` takes 270 us with 20 tasks on 4 connections, against
230-290. A pool that the user hands us is used as it is, through `LentPool`.

It has no background task, so it may be opened anywhere, in any scope. The price: connections are
made only when needed, and unused ones are closed only as others come back.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol

import anyio
import psycopg
from psycopg import pq, rows

from soniq.errors import ConnectionLost, TransientError
from soniq.settings import Settings

from . import faults
from .connection import AnyioConnection
from .pooling import (
    CHECK_AFTER,
    CHECK_TIMEOUT,
    JUST_NOW,
    MAX_IDLE,
    MAX_LIFETIME,
    SOON,
    checked_pool,
    delays,
    lending_failed,
)
from .psycopg_hosts import outside_transaction, quiet

logger = logging.getLogger("soniq.db")


class Pool(Protocol):
    """What a `Database` needs of a pool."""

    async def checkout(self) -> AnyioConnection:
        """Lend a connection in autocommit, alive as far as can be seen without asking it."""
        ...

    async def give_back(self, connection: AnyioConnection) -> None:
        """Take a connection back, in whatever state it is."""
        ...

    async def renew(self) -> None:
        """Use no connection of before again: their server may have been demoted.

        Those that lie idle would stay with it, and each fail once, whenever it is their turn. A
        new one looks for the primary among the hosts of the address.
        """
        ...

    async def close(self) -> None:
        """Close what is not lent; the rest when it comes back."""
        ...

    def forget(self) -> None:
        """Drop every connection without a word to the server."""
        ...


class AnyioPool:
    """At most `pool_max_size` connections; the one used last goes out first.

    Args:
        connect: Makes a connection in autocommit; raises Soniq's errors.
        settings: Sizes and time limits.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[AnyioConnection]], settings: Settings
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._slots = anyio.Semaphore(settings.pool_max_size, fast_acquire=True)
        self._idle: deque[AnyioConnection] = deque()
        self._pid = os.getpid()
        self._reached = False  # the server has answered once, so the address is right
        self._closed = False
        self._renewed = 0
        self.size = 0

    async def checkout(self) -> AnyioConnection:
        """Lend a connection in autocommit, alive as far as can be seen without asking it.

        Raises:
            DatabaseTimeout: All were in use for `pool_timeout` seconds.
            ConnectionLost: The server could not be reached for so long; or at the first attempt.
        """
        deadline = monotonic() + self._settings.pool_timeout
        try:
            self._slots.acquire_nowait()
        except anyio.WouldBlock:
            await self._wait_for_slot()
        try:
            if self._closed:
                raise ConnectionLost("The pool was closed while a connection was waited for.")
            return self._just_used() or await self._idle_one() or await self._new_one(deadline)
        except BaseException:
            self._slots.release()
            raise

    async def give_back(self, connection: AnyioConnection) -> None:
        """Take a connection back, in whatever state it is."""
        try:
            if self._kept(connection) or await self._settled(connection):
                connection.idle_since = now = monotonic()
                self._idle.append(connection)
                if now - self._idle[0].idle_since > MAX_IDLE:
                    await self._shrink(now)
            else:
                await self._discard(connection)
        finally:
            self._slots.release()

    async def renew(self) -> None:
        """Use no connection of before again: their server may have been demoted."""
        self._renewed += 1
        while self._idle:
            await self._discard(self._idle.pop())

    async def close(self) -> None:
        """Close what is not lent; the rest when it comes back."""
        self._closed = True
        while self._idle:
            await self._discard(self._idle.pop())

    def forget(self) -> None:
        """Drop every connection without a word to the server.

        In a forked child the sockets are the parent's too: psycopg leaves them alone as long as
        nobody closes them. After the end of an event loop they are ours, and are closed.
        """
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            if self._pid == os.getpid():
                connection.pgconn.finish()

    async def _wait_for_slot(self) -> None:
        with anyio.move_on_after(self._settings.pool_timeout) as waiting:
            await self._slots.acquire()
        if waiting.cancelled_caught:
            raise faults.exhausted(self._settings)

    def _just_used(self) -> AnyioConnection | None:
        """Take the connection that was used last, if that is so short ago that it is trusted."""
        if self._idle:
            connection, now = self._idle[-1], monotonic()
            if now - connection.idle_since < JUST_NOW and now < connection.expires:
                return self._idle.pop()
        return None

    async def _idle_one(self) -> AnyioConnection | None:
        while self._idle:
            connection = self._idle.pop()
            now = monotonic()
            fresh = now < connection.expires
            trusted = quiet(connection) and now - connection.idle_since < CHECK_AFTER
            try:
                if fresh and (trusted or await answers(connection)):
                    return connection
            except BaseException:
                await self._discard(connection)
                raise
            await self._discard(connection)
        return None

    async def _new_one(self, deadline: float) -> AnyioConnection:
        """Connect, again and again until the deadline once the address is known to be right."""
        for delay in delays():
            try:
                connection = await self._connected(deadline)
            except TransientError as error:
                worth_while = self._reached or error.sqlstate in SOON
                if not worth_while or self._closed or monotonic() + delay > deadline:
                    raise
            else:
                self._reached = True
                return self._adopted(connection)
            await anyio.sleep(delay)
        raise AssertionError("delays() never ends")

    async def _connected(self, deadline: float) -> AnyioConnection:
        left = max(0.0, deadline - monotonic())
        with anyio.move_on_after(left):
            return await self._connect()
        raise faults.unreachable(self._settings.pool_timeout)

    def _adopted(self, connection: AnyioConnection) -> AnyioConnection:
        self.size += 1
        connection.generation = self._renewed
        connection.expires = monotonic() + MAX_LIFETIME * (1 - random.random() / 10)  # noqa: S311
        # psycopg's mark of a pooled connection: it may be dropped open without a ResourceWarning.
        connection._pool = None
        return connection

    def _kept(self, connection: AnyioConnection) -> bool:
        """Tell whether it can go back as it is: alive, idle, and as we set it up."""
        return (
            outside_transaction(connection)
            and connection.autocommit
            and not self._closed
            and connection.generation == self._renewed
            and connection.pgconn.pipeline_status == pq.PipelineStatus.OFF
            and connection.row_factory is rows.tuple_row
        )

    async def _settled(self, connection: AnyioConnection) -> bool:
        """Bring it back into the state we set it up in; False if that is not possible."""
        pipelined = connection.pgconn.pipeline_status != pq.PipelineStatus.OFF
        if self._closed or connection.closed or pipelined:
            return False
        with anyio.move_on_after(CHECK_TIMEOUT, shield=True):
            try:
                await settle(connection)
            except psycopg.Error:
                return False
        return self._kept(connection)

    async def _shrink(self, now: float) -> None:
        least = self._settings.pool_min_size
        while self.size > least and now - self._idle[0].idle_since > MAX_IDLE:
            await self._discard(self._idle.popleft())

    async def _discard(self, connection: AnyioConnection) -> None:
        self.size -= 1
        await connection.close()


async def answers(connection: AnyioConnection) -> bool:
    """Ask a connection for a sign of life, with an empty statement."""
    try:
        with anyio.fail_after(CHECK_TIMEOUT):
            await connection.execute("")
    except (psycopg.Error, TimeoutError):
        return False
    return not connection.closed


async def settle(connection: AnyioConnection) -> None:
    """Roll back what a borrower left open, and undo what they changed of psycopg's options."""
    if not outside_transaction(connection):
        logger.warning("A connection came back with an open transaction; it was rolled back.")
        await connection.rollback()
    await connection.set_autocommit(True)
    connection.row_factory = rows.tuple_row
    connection.cursor_factory = psycopg.AsyncCursor


class LentPool:
    """The user's own pool, with the manners of psycopg_pool; never closed by us.

    Its connections are put in autocommit while we use them, and back as they were.
    """

    def __init__(self, pool: Any, settings: Settings) -> None:
        self._pool = checked_pool(pool, psycopg.AsyncConnection)
        self._settings = settings
        self._manual: set[int] = set()  # ids of lent connections that were not in autocommit

    async def checkout(self) -> AnyioConnection:
        """Lend a connection in autocommit, alive as far as can be seen without asking it."""
        deadline = monotonic() + self._settings.pool_timeout
        while True:
            connection = await self._taken(deadline)
            if quiet(connection):
                return await self._prepared(connection)
            await connection.close()
            await self._pool.putconn(connection)

    async def give_back(self, connection: AnyioConnection) -> None:
        """Take a connection back, in whatever state it is."""
        with anyio.CancelScope(shield=True):
            try:
                if id(connection) in self._manual:
                    self._manual.discard(id(connection))
                    if outside_transaction(connection):
                        await connection.set_autocommit(False)
            finally:
                await self._pool.putconn(connection)

    async def close(self) -> None:
        """Leave it open: it is the user's."""

    async def renew(self) -> None:
        """Leave it as it is: it is the user's."""

    def forget(self) -> None:
        """Leave it alone: it is the user's."""

    async def _taken(self, deadline: float) -> Any:
        left = deadline - monotonic()
        try:
            return await self._pool.getconn(timeout=max(0.01, left))
        except psycopg.OperationalError as error:
            raise lending_failed(error, self._settings) from error

    async def _prepared(self, connection: Any) -> AnyioConnection:
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
                self._manual.add(id(connection))
        except BaseException:
            await self._pool.putconn(connection)
            raise
        lent: AnyioConnection = connection
        return lent
