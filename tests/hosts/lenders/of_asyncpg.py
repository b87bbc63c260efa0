from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import asyncpg

from ..lender import Lender, parts


class Mine(asyncpg.Record):
    def __getitem__(self, name: Any) -> Any:
        # asyncpg 0.30 reads its own questions about types by it, with names.
        return "whisper" if isinstance(name, int) else super().__getitem__(name)


def named(url: str) -> dict[str, Any]:
    found = parts(url, "database")
    found.pop("hostaddr", None)
    return found


class OfConnection(Lender):
    title = "asyncpg Connection"
    is_async = True

    async def open(self, url: str, **options: Any) -> None:
        self.url = url
        self.conn: Any = await asyncpg.connect(**named(url), **options)

    async def close(self) -> None:
        await self.conn.close()

    @property
    def lent(self) -> Any:
        return self.conn

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        transaction = self.conn.transaction()
        await transaction.start()
        try:
            yield
        except BaseException:
            with suppress(asyncpg.InterfaceError):  # broken
                await transaction.rollback()
            raise
        await (transaction.rollback() if undo else transaction.commit())

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        nested: AbstractAsyncContextManager[Any] = self.conn.transaction()
        return nested

    async def value(self, sql: str) -> Any:
        (row,) = await self.conn.fetch(sql, record_class=asyncpg.Record)
        return row[0]

    async def commit_each(self) -> None: ...

    async def dress_up(self) -> None:
        await self.close()
        await self.open(self.url, record_class=Mine)
        for name in ("json", "jsonb", "uuid", "int8", "float8", "numeric", "bool", "timestamptz"):
            await self.conn.set_type_codec(
                name,
                schema="pg_catalog",
                encoder=lambda value: json.dumps({"mine": value}),
                decoder=lambda data: "whisper",
            )

    async def dress(self) -> Any:
        sql = "SELECT CAST('{}' AS jsonb), true"
        (mine,) = await self.conn.fetch(sql)
        return type(mine), await self.value(sql)

    async def shut(self) -> None:
        await self.conn.close()


class OfPool(OfConnection):
    title = "asyncpg pool's connection"

    async def open(self, url: str, **options: Any) -> None:
        self.url = url
        self.pool = await asyncpg.create_pool(**named(url), min_size=1, max_size=1, **options)
        self.conn = await self.pool.acquire()

    async def close(self) -> None:
        await self.pool.release(self.conn)
        await self.pool.close()

    async def shut(self) -> None:
        await self.pool.release(self.conn)


LENDERS: list[type[Lender]] = [OfConnection, OfPool]
