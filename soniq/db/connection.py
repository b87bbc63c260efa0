"""Soniq's async connection: psycopg's, at home on asyncio, uvloop and trio.

psycopg's own is written for asyncio, and for its way to cancel: once. Scopes of anyio cancel again
at every await, so psycopg's clean-up after a cancelled query is itself cancelled, and it closes the
connection (800 random cancellations over a pool of 4: 91 connections made, against 4 here). This
subclass shields what must end, and on trio waits with anyio. It leans on a few private names of
psycopg, pinned by `tests/drivers/test_psycopg_contract.py`; so psycopg is capped below 3.4.

On asyncio it waits for answers with psycopg's own waiter, and connects with ours.

Overhead, `select 1` over a unix socket, CPU per query: asyncio 64 us (psycopg's own class 69),
uvloop 52 (53), trio 46.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, LiteralString, Self

import anyio
import psycopg
from psycopg import errors as e
from psycopg import pq, rows, waiting
from psycopg._conninfo_attempts import conninfo_attempts
from psycopg.abc import RV, PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo, timeout_from_conninfo

from . import faults
from .conninfo import needs_lookup
from .loops import on_trio
from .psycopg_hosts import PlainAsyncCursor
from .render import numbered
from .waiting import wait_connecting, wait_on_anyio

_ACTIVE = pq.TransactionStatus.ACTIVE
_INTERVAL = 0.1  # seconds; psycopg's own
# Seconds a cancelled query has to end, after each request; and their sum, for all there is to do.
_PATIENCE = (0.05, 0.2, 1.0, 4.0)


class AnyioConnection(psycopg.AsyncConnection[rows.TupleRow]):
    """A `psycopg.AsyncConnection`, to which `fetch`, `fetchrow` and `fetchval` are added.

    Attributes:
        limit: Seconds any one answer may take; None: no limit.
        interval: Seconds between looks at a silent socket, on asyncio; for a socket closed by us.
        idle_since: When it last came back to its pool, by `time.monotonic`.
        expires: When its pool replaces it, by `time.monotonic`.
        generation: How often its pool had been renewed when it was made.
        patience: Seconds that BEGIN, COMMIT and ROLLBACK may take where there is no limit, because
            they cannot be cancelled.
    """

    limit: float | None = None
    interval: float = _INTERVAL
    idle_since: float = 0.0
    expires: float = float("inf")
    generation: int = 0
    patience: float = 30.0
    plain_cursor: PlainAsyncCursor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # fast_acquire: the default one goes round the loop at each acquire, 20 us a query.
        self.lock = anyio.Lock(fast_acquire=True)  # type: ignore[assignment]
        self._trio = on_trio()

    async def fetch(self, query: LiteralString, *params: object) -> list[rows.TupleRow]:
        """Give all rows. Placeholders are `$1` or `%s`."""
        return await (await self._run(query, params)).fetchall()

    async def fetchrow(self, query: LiteralString, *params: object) -> rows.TupleRow | None:
        """Give the first row, or None. Placeholders are `$1` or `%s`."""
        return await (await self._run(query, params)).fetchone()

    async def fetchval(self, query: LiteralString, *params: object) -> Any:
        """Give the first column of the first row, or None. Placeholders are `$1` or `%s`."""
        cursor = await self._run(query, params)
        cursor.row_factory = rows.tuple_row
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def _run(
        self, query: LiteralString, params: tuple[object, ...]
    ) -> psycopg.AsyncCursor[rows.TupleRow]:
        if params and numbered(query):
            cursor: psycopg.AsyncCursor[rows.TupleRow] = psycopg.AsyncRawCursor(self)
            return await cursor.execute(query, params)
        return await self.cursor().execute(query, params or None)

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect as psycopg does, on trio too; a cancelled attempt leaves no socket behind.

        Raises:
            psycopg.OperationalError: No server answered, or it refused.
        """
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        parameters = await cls._get_connection_params(conninfo, **kwargs)
        if needs_lookup(parameters):  # in a thread: psycopg's async way asks asyncio
            attempts = await anyio.to_thread.run_sync(conninfo_attempts, parameters)
        else:
            attempts = conninfo_attempts(parameters)
        connection = await cls._first_of(attempts, timeout_from_conninfo(parameters))
        _set_up(connection, **options)
        return connection

    @classmethod
    async def _first_of(cls, attempts: list[dict[str, Any]], seconds: int) -> Self:
        failures: list[psycopg.Error] = []
        for attempt in attempts:
            try:
                return await wait_connecting(
                    cls._connect_gen(make_conninfo("", **attempt)), seconds
                )
            except e._WaitTimeout:
                failures.append(e.ConnectionTimeout("connection timeout expired"))
            except e.Error as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0].with_traceback(None)
        raise type(failures[-1])("; ".join(map(str, failures))).with_traceback(None)

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  psycopg's
    ) -> RV:
        """Wait for an answer; a cancelled wait leaves the connection idle and usable.

        Raises:
            DatabaseTimeout: The answer took longer than `limit`; the connection is closed.
        """
        limit = self.limit if timeout is None else None
        try:
            return await self._wait(gen, timeout if limit is None else limit)
        except e._WaitTimeout:
            if limit is None:
                raise
            await self._abandon()
            raise faults.unanswered(limit) from None
        except _interruptions():
            await self._tidy(gen)
            raise

    def _wait(self, gen: PQGen[RV], seconds: float | None) -> Coroutine[Any, Any, RV]:
        socket = self.pgconn.socket
        if self._trio:
            return wait_on_anyio(gen, socket, seconds)
        return waiting.wait_async(gen, socket, interval=self.interval, timeout=seconds)

    async def _tidy(self, gen: PQGen[Any]) -> None:
        """Stop the query of an interrupted wait on the server, and drain what it still sends."""
        if self.pgconn.transaction_status != _ACTIVE:
            return
        with anyio.CancelScope(shield=True):
            try:
                await self._stop(gen)
            except e.QueryCanceled:
                pass
            except BaseException:  # noqa: BLE001  in whatever state it is, nobody may use it
                self.pgconn.finish()

    async def _stop(self, gen: PQGen[Any]) -> None:
        """Ask the server to stop until it does.

        More than once, for a request may overtake the query that it should stop: the server then
        finds nothing to stop, and starts.
        """
        deadline = monotonic() + sum(_PATIENCE)
        for patience in _PATIENCE:
            await self._try_cancel(timeout=max(0.01, deadline - monotonic()))
            with suppress(e._WaitTimeout):
                await self._wait(gen, min(patience, max(0.0, deadline - monotonic())))
                return
        raise e._WaitTimeout("the server did not stop the query")

    async def _abandon(self) -> None:
        """Give up a connection that does not answer; its query too, if the server listens."""
        with anyio.move_on_after(1, shield=True):
            await self._try_cancel(timeout=1.0)
        self.pgconn.finish()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109  psycopg's
        """Ask the server to stop what it does for this connection.

        Raises:
            psycopg.errors.CancellationTimeout: It could not be asked within `timeout` seconds.
        """
        if not self._trio:
            await super().cancel_safe(timeout=timeout)
        elif self._should_cancel():
            if psycopg.capabilities.has_cancel_safe():
                await self._ask_to_cancel(timeout)
            else:
                await anyio.to_thread.run_sync(self.cancel)

    async def _ask_to_cancel(self, seconds: float) -> None:
        try:
            await wait_connecting(self._cancel_gen(), seconds)
        except e._WaitTimeout:
            raise e.CancellationTimeout("cancellation timeout expired") from None

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Open a transaction, or a savepoint within one, as psycopg does."""
        transaction = _Transaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), transaction, self.pipeline():
                yield transaction
        else:
            async with transaction:
                yield transaction

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[psycopg.AsyncPipeline]:
        """Enter pipeline mode, as psycopg does."""
        self._check_connection_ok()
        pipeline = self._pipeline
        if pipeline is None:
            pipeline = self._pipeline = psycopg.AsyncPipeline(self)
        try:
            async with pipeline:
                yield pipeline
        finally:
            # Without psycopg's lock around it: in a cancelled scope the lock is not given, and the
            # connection would believe to be in pipeline mode for ever.
            if pipeline.level == 0:
                self._pipeline = None

    async def close(self) -> None:
        """Close; a task that waits on the connection is told."""
        self.plain_cursor = None  # it points back: only the cycle collector would free both
        if self._trio and not self.closed:
            anyio.notify_closing(self.pgconn.socket)
        await super().close()


class _Transaction(psycopg.AsyncTransaction):
    """BEGIN and COMMIT are let end: half of one would leave the connection in it.

    But not for ever: behind a network that swallows what is sent, nobody could end this task.
    """

    async def __aenter__(self) -> Self:
        with _let_end(self.connection):
            await super().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        with _let_end(self.connection):
            return await super().__aexit__(exc_type, exc_val, exc_tb)


@contextmanager
def _let_end(connection: Any) -> Iterator[None]:
    limit, connection.limit = connection.limit, connection.limit or connection.patience
    try:
        with anyio.CancelScope(shield=True):
            yield
    finally:
        connection.limit = limit


_OPTIONS = ("autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory")


def _set_up(
    connection: Any,
    *,
    autocommit: bool = False,
    prepare_threshold: int | None = 5,
    context: Any = None,
    row_factory: Any = None,
    cursor_factory: Any = None,
) -> None:
    connection._autocommit = bool(autocommit)
    connection.prepare_threshold = prepare_threshold
    connection.row_factory = row_factory or connection.row_factory
    connection.cursor_factory = cursor_factory or connection.cursor_factory
    if context:
        connection._adapters = AdaptersMap(context.adapters)


def _interruptions() -> tuple[type[BaseException], ...]:
    return (anyio.get_cancelled_exc_class(), KeyboardInterrupt, SystemExit)
