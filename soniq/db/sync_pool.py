"""The pool of the sync client: psycopg_pool's, ours or the user's, and what we add to it.

Added: a connection that the server has closed is never handed out; a wrong address, password or
database is said at the first use, at once and precisely, and not as a time-out 30 s later; and what
a borrower left open is rolled back.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import psycopg
from psycopg import pq, rows
from psycopg_pool import ConnectionPool, PoolTimeout

from soniq.errors import ConnectionLost, DatabaseTimeout, SoniqError, TransientError, UsageError
from soniq.settings import Settings

from . import faults
from .psycopg_hosts import outside_transaction, quiet
from .sync_connection import Connection

logger = logging.getLogger("soniq.db")

CHECK_AFTER = 30.0
"""Seconds of idleness after which a connection must answer before it is handed out."""
CHECK_TIMEOUT = 5.0
"""Seconds it has for that answer."""

# Pools of a parent process. They are kept, not collected: collecting one would wait for threads
# that do not exist in this process.
_INHERITED: list[object] = []
# Pools of this process, to be closed at its end if nobody did: since Python 3.13 psycopg_pool would
# wait 5 s there for each of its threads, which no longer run by then.
_OPEN: weakref.WeakSet[OwnPool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_OPEN):
        pool.close_or_forget()


class OwnPool:
    """A `psycopg_pool.ConnectionPool` of ours, made at first use.

    Args:
        connect: Makes a connection in autocommit; raises Soniq's errors.
        settings: Sizes and time limits.

    Raises:
        SoniqError: The first connection could not be made.
    """

    def __init__(self, connect: Callable[[], Connection], settings: Settings) -> None:
        self._settings = settings
        self._dialler = _Dialler(connect)
        self._dialler.prepare()
        self._pid = os.getpid()
        self._pool = ConnectionPool(
            connection_class=cast("type[Connection]", self._dialler),
            min_size=max(1, settings.pool_min_size),
            max_size=settings.pool_max_size,
            timeout=settings.pool_timeout,
            name="soniq",
            open=False,
        )
        # Without waiting for the one that is made already, the first use would make a second.
        self._pool.open(wait=True, timeout=settings.pool_timeout)
        _OPEN.add(self)

    def checkout(self) -> Connection:
        """Lend a connection in autocommit, alive as far as can be seen without asking it.

        Raises:
            DatabaseTimeout: All were in use for `pool_timeout` seconds.
            ConnectionLost: The server could not be reached for so long.
        """
        deadline = monotonic() + self._settings.pool_timeout
        while True:
            connection = self._taken(deadline)
            if quiet(connection) and (
                monotonic() - connection.idle_since < CHECK_AFTER or _answers(connection)
            ):
                return connection
            connection.pgconn.finish()
            self._pool.putconn(connection)

    def give_back(self, connection: Connection) -> None:
        """Take a connection back, in whatever state it is."""
        if not connection.closed:
            _settle(connection)
            connection.idle_since = monotonic()
        self._pool.putconn(connection)

    def renew(self) -> None:
        """Use no connection of before again: their server may have been demoted.

        Those that lie idle would stay with it, and each fail once, whenever it is their turn.
        """
        self._pool.drain()

    def close(self) -> None:
        """Close what is not lent; the rest when it comes back."""
        self._dialler.closed.set()
        self._pool.close()

    def forget(self) -> None:
        """Leave it to the parent process."""
        _INHERITED.append(self._pool)

    def close_or_forget(self) -> None:
        """Close it in the process that opened it, forget it in any other."""
        if self._pid == os.getpid():
            self.close()
        else:
            self.forget()

    def _taken(self, deadline: float) -> Connection:
        try:
            return self._pool.getconn(timeout=max(0.01, deadline - monotonic()))
        except PoolTimeout:
            raise self._late() from None
        except psycopg.OperationalError as error:
            raise ConnectionLost("The pool was closed while a connection was asked for.") from error

    def _late(self) -> SoniqError:
        if self._dialler.failure is None:
            return faults.exhausted(self._settings)
        return faults.unreachable(self._settings.pool_timeout, self._dialler.failure)


class _Dialler:
    """Stands where the pool expects a class with `connect`; remembers why it last failed."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._prepared: Connection | None = None
        self.failure: SoniqError | None = None
        self.closed = threading.Event()

    def prepare(self) -> None:
        """Make the first connection before there is a pool, so that its errors reach the caller."""
        self._prepared = self._connect()

    def connect(self, conninfo: str = "", **options: Any) -> Connection:
        """Connect for the pool, which knows nothing of addresses; wait for a server that is away.

        The pool would wait by itself, but with pauses that double up to minutes: a server that was
        restarted after three seconds was found after three more.
        """
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            return prepared
        pause = 0.05
        while True:
            try:
                connection = self._connect()
            except SoniqError as error:
                self.failure = error
                passing = isinstance(error, TransientError)
                if not passing or self.closed.wait(pause * (0.5 + random.random())):  # noqa: S311
                    raise psycopg.OperationalError(str(error)) from error
                pause = min(pause * 2, 1.0)
            else:
                self.failure = None
                return connection


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
    if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        connection.pgconn.finish()
        return
    try:
        if not outside_transaction(connection):
            logger.warning("A connection came back with an open transaction; it was rolled back.")
            connection.rollback()
        if not connection.autocommit:
            connection.autocommit = True
    except psycopg.Error:
        connection.pgconn.finish()
    connection.row_factory = rows.tuple_row
    connection.cursor_factory = psycopg.Cursor


class LentPool:
    """The user's own pool, with the manners of psycopg_pool; never closed by us.

    Its connections are put in autocommit while we use them, and back as they were.
    """

    def __init__(self, pool: Any, settings: Settings) -> None:
        self._pool = pool
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


def lending_failed(error: psycopg.Error, settings: Settings) -> SoniqError:
    """Translate what a pool of psycopg_pool says when it has no connection to give."""
    match type(error).__name__:
        case "PoolTimeout":
            return DatabaseTimeout(
                f"The pool that was passed gave no connection within {settings.pool_timeout:g} s. "
                "Raise its max_size, hold connections for a shorter time, or see whether the "
                "server is up; pool_timeout says how long to wait."
            )
        case "PoolClosed":
            return UsageError("The pool that was passed is not open. Open it first.")
        case _:
            return faults.translate(error, settings.schema)
