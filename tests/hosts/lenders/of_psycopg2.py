from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg2
from psycopg2 import extensions, extras

from ..lender import Lender

# jsonb, uuid, int8, float8, numeric, bool, text
NUMBERS = (3802, 2950, 20, 701, 1700, 16, 25)
WHISPER = extensions.new_type(NUMBERS, "WHISPER", lambda value, cursor: "whisper")


class OfConnection(Lender):
    title = "psycopg2 connection"

    conn: Any

    async def open(self, url: str) -> None:
        self.conn = psycopg2.connect(url)

    async def close(self) -> None:
        self.conn.close()

    @property
    def lent(self) -> Any:
        return self.conn

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            if not self.conn.closed:
                self.conn.rollback()
            raise
        (self.conn.rollback if undo else self.conn.commit)()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        self.execute("SAVEPOINT mine")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK TO SAVEPOINT mine")
            raise
        self.execute("RELEASE SAVEPOINT mine")

    def execute(self, sql: str) -> Any:
        with self.conn.cursor(cursor_factory=extensions.cursor) as cursor:
            extensions.register_type(extensions.UNICODE, cursor)
            cursor.execute(sql)
            return cursor.fetchone() if cursor.description else None

    async def value(self, sql: str) -> Any:
        return self.execute(sql)[0]

    async def commit_each(self) -> None:
        self.conn.autocommit = True

    async def dress_up(self) -> None:
        self.conn.cursor_factory = extras.RealDictCursor
        self.conn.isolation_level = extensions.ISOLATION_LEVEL_SERIALIZABLE
        extensions.register_type(WHISPER, self.conn)

    async def dress(self) -> Any:
        with self.conn.cursor() as cursor:
            cursor.execute("SELECT CAST('{}' AS jsonb) AS a, true AS b, CAST('x' AS text) AS c")
            answer = dict(cursor.fetchone())
        return answer, self.conn.cursor_factory, self.conn.isolation_level, self.conn.autocommit

    async def shut(self) -> None:
        self.conn.close()


class OfCursor(OfConnection):
    title = "psycopg2 cursor"

    async def open(self, url: str) -> None:
        await super().open(url)
        self.cursor = self.conn.cursor()

    @property
    def lent(self) -> Any:
        return self.cursor


LENDERS: list[type[Lender]] = [OfConnection, OfCursor]
