"""The pool of the sync client, for threads; `pool.py` is its twin.

Why not `psycopg_pool.ConnectionPool`: to lend a connection and take it back costs it 5.4 us with
the processor's caches warm and 12 between two statements, a tenth of an INSERT, against 1.4 here;
it keeps four threads for that; and its pauses between attempts to reach a server double up to
minutes. A pool that the user hands us is used as it is, through `LentPool`.

It has no thread: connections are made by whoever needs one, and unused ones are closed only as
others come back.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import psycopg
from psycopg import pq, rows

from soniq.errors import ConnectionLost, DatabaseTimeout, TransientError
from soniq.settings import Settings

from . import faults
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
from .sync_connection import Connection

logger = logging.getLogger("soniq.db")


@dataclass(eq=False, slots=True)
class _Waiter:
    """A thread that waits for its turn, and what it is given: a connection, or room for one."""

    connection: Connection | None = None
    served: threading.Event = field(default_factory=threading.Event)


class OwnPool:
    """At most `pool_max_size` connections; the one used last goes out first, unless others wait.

    Idle connections are taken and put back without the lock, for an operation on a deque is whole.
    So that nobody sleeps beside an idle connection, who puts one back looks for waiters after that,
    and who begins to wait looks for a connection after that.

    Args:
        connect: Makes a connection in autocommit; raises Soniq's errors.
        settings: Sizes and time limits.
    """

    def __init__(self, connect: Callable[[], Connection], settings: Settings) -> None:
        self._connect = connect
        self._settings = settings
        self._idle: deque[Connection] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._lock = threading.Lock()  # for the waiters and the size
        self._size = 0  # lent, idle, or being made
        self._renewed = 0
        self._reached = False  # the server has answered once, so the address is right
        self._closed = threading.Event()

    def checkout(self) -> Connection:
        """Lend a connection in autocommit, alive as far as can be seen without asking it.

        Raises:
            DatabaseTimeout: All were in use for `pool_timeout` seconds.
            ConnectionLost: The server could not be reached for so long; or at the first attempt.
        """
        deadline = monotonic() + self._settings.pool_timeout
        connection = self._idle_one_or_room(deadline)
        try:
            while connection is not None and not _usable(connection):
                connection.pgconn.finish()
                if (connection := self._popped()) is not None:
                    self._leave()
            return connection or self._new_one(deadline)
        except BaseException:
            if connection is not None:
                connection.pgconn.finish()
            self._leave()
            raise

    def give_back(self, connection: Connection) -> None:
        """Take a connection back, in whatever state it is."""
        if not (self._kept(connection) or self._settled(connection)):
            connection.close()
            self._leave()
            return
        connection.idle_since = now = monotonic()
        self._idle.append(connection)
        if self._waiters:
            self._serve()
        if self._closed.is_set():  # meanwhile
            self._drain()
        self._shrink(now)

    def renew(self) -> None:
        """Use no connection of before again: their server may have been demoted.

        Those that lie idle would stay with it, and each fail once, whenever it is their turn.
        """
        self._renewed += 1
        self._drain()

    def close(self) -> None:
        """Close what is not lent; the rest when it comes back."""
        self._closed.set()
        self._drain()
        with self._lock:
            while self._waiters:
                self._waiters.popleft().served.set()

    def forget(self) -> None:
        """Leave its connections to the parent process: psycopg closes them only where made."""
        self._idle.clear()

    # -- whose turn it is

    def _idle_one_or_room(self, deadline: float) -> Connection | None:
        """Take an idle connection, or the right to make one, waiting for either."""
        if not self._waiters and (connection := self._popped()) is not None:
            return connection
        with self._lock:
            self._refuse_if_closed()
            if not self._waiters and self._size < self._settings.pool_max_size:
                self._size += 1
                return None
            waiter = _Waiter()
            self._waiters.append(waiter)
        self._serve()
        return self._awaited(waiter, deadline)

    def _awaited(self, waiter: _Waiter, deadline: float) -> Connection | None:
        try:
            waiter.served.wait(max(0.0, deadline - monotonic()))
        except BaseException:  # Ctrl-C
            if not self._withdrawn(waiter):
                self._leave() if waiter.connection is None else self.give_back(waiter.connection)
            raise
        if self._withdrawn(waiter):
            raise faults.exhausted(self._settings)
        if waiter.connection is None:
            self._refuse_if_closed()
        return waiter.connection

    def _withdrawn(self, waiter: _Waiter) -> bool:
        """Wait no longer; False if it was served before."""
        with self._lock:
            if waiter.served.is_set():
                return False
            self._waiters.remove(waiter)
            return True

    def _serve(self) -> None:
        """Hand idle connections to those who wait, in the order they came."""
        with self._lock:
            while self._waiters and (connection := self._popped()) is not None:
                waiter = self._waiters.popleft()
                waiter.connection = connection
                waiter.served.set()

    def _leave(self) -> None:
        """Give up the room of a connection, to who waits first."""
        with self._lock:
            if self._waiters:
                self._waiters.popleft().served.set()
            else:
                self._size -= 1

    def _refuse_if_closed(self) -> None:
        if self._closed.is_set():
            raise ConnectionLost("The pool was closed while a connection was asked for.")

    # -- connections

    def _popped(self) -> Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _new_one(self, deadline: float) -> Connection:
        """Connect, again and again until the deadline once the address is known to be right."""
        for delay in delays():
            try:
                connection = self._connect()
            except TransientError as error:
                worth_while = self._reached or error.sqlstate in SOON
                if not worth_while or monotonic() + delay > deadline or self._closed.wait(delay):
                    raise
            else:
                self._reached = True
                return self._adopted(connection)
        raise AssertionError("delays() never ends")

    def _adopted(self, connection: Connection) -> Connection:
        connection.generation = self._renewed
        connection.expires = monotonic() + MAX_LIFETIME * (1 - random.random() / 10)  # noqa: S311
        # psycopg's mark of a pooled connection: it may be dropped open without a ResourceWarning.
        connection._pool = None
        return connection

    def _kept(self, connection: Connection) -> bool:
        """Tell whether it can go back as it is: alive, idle, and as we set it up."""
        return (
            outside_transaction(connection)
            and connection.autocommit
            and connection.generation == self._renewed
            and connection.pgconn.pipeline_status == pq.PipelineStatus.OFF
            and connection.row_factory is rows.tuple_row
            and not self._closed.is_set()
        )

    def _settled(self, connection: Connection) -> bool:
        """Bring it back into the state we set it up in; False if that is not possible."""
        pipelined = connection.pgconn.pipeline_status != pq.PipelineStatus.OFF
        if self._closed.is_set() or connection.closed or pipelined:
            return False
        connection.limit = CHECK_TIMEOUT
        try:
            _settle(connection)
        except (psycopg.Error, DatabaseTimeout):
            return False
        finally:
            connection.limit = None
        return self._kept(connection)

    def _drain(self) -> None:
        while (connection := self._popped()) is not None:
            connection.close()
            self._leave()

    def _shrink(self, now: float) -> None:
        """Close those beyond the least size that nobody has used for long."""
        while self._size > self._settings.pool_min_size:
            try:
                if now - self._idle[0].idle_since <= MAX_IDLE:
                    return
                connection = self._idle.popleft()
            except IndexError:
                return
            connection.close()
            self._leave()


def _usable(connection: Connection) -> bool:
    now = monotonic()
    idle = now - connection.idle_since
    if now >= connection.expires or not (idle < JUST_NOW or quiet(connection)):
        return False
    return idle < CHECK_AFTER or _answers(connection)


def _answers(connection: Connection) -> bool:
    connection.limit = CHECK_TIMEOUT
    try:
        connection.execute("")
    except (psycopg.Error, DatabaseTimeout):
        return False
    finally:
        connection.limit = None
    return not connection.closed


def _settle(connection: Connection) -> None:
    """Roll back what a borrower left open, and undo what they changed of psycopg's options."""
    if not outside_transaction(connection):
        logger.warning("A connection came back with an open transaction; it was rolled back.")
        connection.rollback()
    connection.autocommit = True
    connection.row_factory = rows.tuple_row
    connection.cursor_factory = psycopg.Cursor


class LentPool:
    """The user's own pool, with the manners of psycopg_pool; never closed by us.

    Its connections are put in autocommit while we use them, and back as they were.
    """

    def __init__(self, pool: Any, settings: Settings) -> None:
        self._pool = checked_pool(pool, psycopg.Connection)
        self._settings = settings
        self._manual: set[int] = set()  # ids of lent connections that were not in autocommit

    def checkout(self) -> Connection:
        """Lend a connection in autocommit, alive as far as can be seen without asking it."""
        deadline = monotonic() + self._settings.pool_timeout
        while True:
            connection = self._taken(deadline)
            if quiet(connection):
                return self._prepared(connection)
            connection.pgconn.finish()
            self._pool.putconn(connection)

    def give_back(self, connection: Connection) -> None:
        """Take a connection back, in whatever state it is."""
        try:
            if id(connection) in self._manual:
                self._manual.discard(id(connection))
                if outside_transaction(connection):
                    connection.autocommit = False
        finally:
            self._pool.putconn(connection)

    def close(self) -> None:
        """Leave it open: it is the user's."""

    def renew(self) -> None:
        """Leave it as it is: it is the user's."""

    def forget(self) -> None:
        """Leave it alone: it is the user's."""

    def _taken(self, deadline: float) -> Any:
        left = deadline - monotonic()
        try:
            return self._pool.getconn(timeout=max(0.01, left))
        except psycopg.OperationalError as error:
            raise lending_failed(error, self._settings) from error

    def _prepared(self, connection: Any) -> Connection:
        try:
            if not connection.autocommit:
                connection.autocommit = True
                self._manual.add(id(connection))
        except BaseException:
            self._pool.putconn(connection)
            raise
        lent: Connection = connection
        return lent
