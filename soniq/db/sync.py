"""Operations performed on sync connections; `aio.py` is its twin. It starts no event loop.

`drive` runs a generator of steps on a host. `Database` lends the host: a connection of its pool, or
the caller's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import psycopg

from soniq.errors import ReadOnlyServer, SoniqError
from soniq.settings import Settings
from soniq.steps import Atomic, Batch, CopyIn, Query, Script, Step, Steps, Where

from . import faults
from .borrow import borrowed
from .conninfo import Address
from .hosts import Host
from .pooling import checked_connection
from .psycopg_hosts import PsycopgHost
from .sync_connection import Connection
from .sync_pool import LentPool, OwnPool

P = ParamSpec("P")
R = TypeVar("R")


def drive(steps: Steps[R], host: Host) -> R:
    """Run an operation: do each step it asks for, and hand it the answer or the error.

    An error is raised within the operation, at its `yield`, so that it may catch it.
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
                answer = _perform(step, host)
                resume = steps.send
            except Exception as error:  # noqa: BLE001
                answer = host.translate(error) or error
                resume = steps.throw
    finally:
        steps.close()


def _perform(step: Step[Any], host: Host) -> Any:
    match step:
        case Query():
            return host.query(step)
        case Where():
            return host.where()
        case Batch():
            return host.batch(step)
        case Script():
            return host.script(step)
        case CopyIn():
            return host.copy(step)
        case Atomic():
            return _all_or_nothing(step, host)
        case _:
            raise TypeError(f"{type(step).__name__} is no step that a driver knows")


def _all_or_nothing(step: Atomic[R], host: Host) -> R:
    try:
        return host.whole(step, drive)
    finally:
        step.steps.close()  # it was not even started if there was no transaction to be had


class Database:
    """What a client holds; connects at first use.

    Args:
        settings: Sizes, time limits, schema.
        url: Gives the URL at first use; it may start a server.
        pool: The user's own, of psycopg_pool or with its methods; open, and closed by them.
        connection_factory: Makes a connection instead of the URL; for passwords that expire.
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
        self._schema = settings.schema
        self.url = url
        self._address = Address(url, settings)
        self._given = pool
        self._factory = connection_factory
        self._pid = 0
        self._opened: OwnPool | LentPool | None = None

    def run(self, operation: Callable[P, Steps[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Perform an operation on a connection of the pool.

        Raises:
            SoniqError: What the operation raised, or the database, in Soniq's terms.
        """
        pool = self._pool()
        connection = pool.checkout()
        connection.limit = self.settings.statement_timeout
        host = PsycopgHost(connection, self._schema, own=True)
        try:
            return drive(operation(*args, **kwargs), host)
        except SoniqError as error:
            if isinstance(error, ReadOnlyServer):
                pool.renew()
            raise faults.trimmed(error)  # noqa: B904
        finally:
            connection.limit = None
            if host.spent:
                connection.pgconn.finish()
            pool.give_back(connection)

    def run_on(
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
        host = borrowed(connection, self._schema)
        try:
            return drive(operation(*args, **kwargs), host)
        except SoniqError as error:
            raise faults.trimmed(error)  # noqa: B904

    @contextmanager
    def acquire(self) -> Iterator[Connection]:
        """Lend a connection of the pool, in autocommit."""
        pool = self._pool()
        connection = pool.checkout()
        try:
            yield connection
        except (ReadOnlyServer, psycopg.errors.ReadOnlySqlTransaction):
            connection.pgconn.finish()
            pool.renew()
            raise
        finally:
            pool.give_back(connection)

    def connect(self, url: str | None = None) -> Connection:
        """Make a connection outside the pool, in autocommit; the caller closes it.

        Args:
            url: Another address than the database's.

        Raises:
            ConnectionLost: The server did not answer.
            AccessDenied: It refused the user.
            SettingsError: The URL is malformed, or names no database.
        """
        try:
            connection = self._dialled(url)
        except psycopg.Error as error:
            raise faults.translate(error, self._schema) from error
        try:
            self._set_up(connection)
        except psycopg.Error as error:
            connection.close()
            raise faults.translate(error, self._schema, lost=True) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the pool; a later use opens another."""
        with _opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            if self._pid == os.getpid():
                opened.close()
            else:
                opened.forget()

    def _pool(self) -> OwnPool | LentPool:
        opened = self._opened
        return self._open() if opened is None or self._pid != os.getpid() else opened

    def _open(self) -> OwnPool | LentPool:
        with _opening:
            if self._opened is not None:
                if self._pid == os.getpid():  # another thread was first
                    return self._opened
                self._opened.forget()  # the parent process uses its sockets
                self._opened = None
            opened = self._new_pool()
            self._pid = os.getpid()
            self._opened = opened
            return opened

    def _new_pool(self) -> OwnPool | LentPool:
        if self._given is not None:
            return LentPool(self._given, self.settings)
        return OwnPool(self.connect, self.settings)

    def _dialled(self, url: str | None) -> Connection:
        if url is None and self._factory is not None:
            made: Any = checked_connection(self._factory(), psycopg.Connection)
            made.autocommit = True
            return made  # type: ignore[no-any-return]
        address = self._address if url is None else Address(lambda: url, self.settings)
        return Connection.connect(autocommit=True, **address.parameters())

    def _set_up(self, connection: Connection) -> None:
        # A pooler hands each transaction to another server connection, which knows nothing of
        # statements prepared on the last one. It makes up the process id it tells us.
        pooled = self.settings.pgbouncer
        if not pooled:
            connection.limit = self.settings.connect_timeout
            row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
            connection.limit = None
            pooled = row is None or row[0] != connection.info.backend_pid
        if pooled:
            connection.prepare_threshold = None


# One for all databases of the process: an open pool may be asked for while another is opened.
_opening = threading.RLock()


def _forked() -> None:
    """Free the child of a lock that some thread of the parent held at the moment of the fork."""
    global _opening  # noqa: PLW0603
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_forked)
