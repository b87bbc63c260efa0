from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import psycopg
from clients.colour import entered, settled
from psycopg.adapt import Dumper, Loader
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from ..lender import Lender


class Whispering(Loader):
    def load(self, data: Any) -> str:
        return "whisper"


class Shouting(Dumper):
    def dump(self, obj: Any) -> bytes:
        return str(obj).upper().encode()


class OfConnection(Lender):
    title = "psycopg Connection"
    kind: ClassVar[Any] = psycopg.Connection

    async def open(self, url: str) -> None:
        self.conn = await settled(self.kind.connect(url))

    async def close(self) -> None:
        await settled(self.conn.close())

    @property
    def lent(self) -> Any:
        return self.conn

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            if not self.conn.broken:
                await settled(self.conn.rollback())
            raise
        await settled(self.conn.rollback() if undo else self.conn.commit())

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        await self.value("SELECT 1")  # else it would be the outermost transaction, and commit
        async with entered(self.conn.transaction()):
            yield

    async def value(self, sql: str) -> Any:
        cursor = await settled(self.conn.execute(sql))
        row = await settled(cursor.fetchone())
        return next(iter(row.values())) if isinstance(row, dict) else row[0]

    async def commit_each(self) -> None:
        await settled(self.conn.set_autocommit(True))

    async def dress_up(self) -> None:
        self.conn.row_factory = dict_row
        self.conn.prepare_threshold = 3
        self.conn.adapters.register_dumper(str, Shouting)
        for name in ("jsonb", "uuid", "int8", "bool", "timestamptz"):
            self.conn.adapters.register_loader(name, Whispering)

    async def dress(self) -> Any:
        cursor = await settled(self.conn.execute("SELECT CAST('{}' AS jsonb) AS a, true AS b"))
        answer = await settled(cursor.fetchone())
        return answer, self.conn.row_factory, self.conn.prepare_threshold, self.conn.autocommit

    async def shut(self) -> None:
        await settled(self.conn.close())


class OfAsyncConnection(OfConnection):
    title = "psycopg AsyncConnection"
    is_async = True
    kind = psycopg.AsyncConnection


class InAutocommit(OfConnection):
    title = "psycopg Connection, autocommit"

    async def open(self, url: str) -> None:
        self.conn = await settled(self.kind.connect(url, autocommit=True))

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        async with entered(self.conn.transaction(force_rollback=undo)):
            yield

    async def commit_each(self) -> None: ...


class AsyncInAutocommit(InAutocommit):
    title = "psycopg AsyncConnection, autocommit"
    is_async = True
    kind = psycopg.AsyncConnection


class OfPool(OfConnection):
    title = "psycopg ConnectionPool"
    kind = ConnectionPool

    async def open(self, url: str) -> None:
        self.pool = self.kind(url, min_size=1, max_size=1, open=False)
        await settled(self.pool.open())
        self.conn = await settled(self.pool.getconn())

    async def close(self) -> None:
        await settled(self.pool.putconn(self.conn))
        await settled(self.pool.close())


class OfAsyncPool(OfPool):
    title = "psycopg AsyncConnectionPool"
    is_async = True
    kind = AsyncConnectionPool


LENDERS: list[type[Lender]] = [
    OfConnection,
    OfAsyncConnection,
    InAutocommit,
    AsyncInAutocommit,
    OfPool,
    OfAsyncPool,
]
