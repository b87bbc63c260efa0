"""A handler's own transaction that ends its job: both or neither."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import LeaseLost
from ..job.record import Claimed
from ..steps import Query
from ..store import endings

if TYPE_CHECKING:
    from ..db import aio, sync


@dataclass
class Lender:
    """Where handlers get connections from.

    Attributes:
        worker_id: Whose jobs they are.
        database: For `async def` handlers.
    """

    worker_id: str
    database: aio.Database
    _sync: sync.Database | None = None
    _making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sync_database(self) -> sync.Database:
        """For `def` handlers, which run in threads; opened by the first that asks."""
        from ..db.sync import Database

        with self._making:  # two that ask at once would each make one
            if self._sync is None:
                self._sync = Database(self.database.settings, url=self.database.url)
            return self._sync

    def close(self) -> None:
        """Close what was opened here."""
        if self._sync is not None:
            self._sync.close()


class JobTransaction:
    """Opens with `async with` or `with`; gives the connection."""

    def __init__(self, lender: Lender, job: Claimed, ended: Callable[[], None]) -> None:
        self._lender = lender
        self._job = job
        self._ended = ended
        self._stack: Any = None
        self._conn: Any = None

    async def __aenter__(self) -> Any:
        async with AsyncExitStack() as stack:
            self._conn = await stack.enter_async_context(self._lender.database.acquire())
            await stack.enter_async_context(self._conn.transaction())
            self._stack = stack.pop_all()
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                finish = self._finish().__iter__
                self._check(await self._lender.database.run_on(self._conn, finish))
            except BaseException as failure:
                await self._stack.__aexit__(type(failure), failure, failure.__traceback__)
                raise
        await self._stack.__aexit__(kind, error, trace)
        if error is None:
            self._ended()

    def __enter__(self) -> Any:
        with ExitStack() as stack:
            self._conn = stack.enter_context(self._lender.sync_database.acquire())
            stack.enter_context(self._conn.transaction())
            self._stack = stack.pop_all()
        return self._conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                finish = self._finish().__iter__
                self._check(self._lender.sync_database.run_on(self._conn, finish))
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)
        if error is None:
            self._ended()

    def _finish(self) -> Query[str]:
        return endings.finish(self._lender.worker_id, [self._job.id], [self._job.attempt], [None])

    def _check(self, written: list[str]) -> None:
        if not written:
            raise LeaseLost(
                f"Job {self._job.id} belongs to another attempt by now, so this one's writes were "
                "rolled back. Nothing needs to be done: the other attempt does the work."
            )
