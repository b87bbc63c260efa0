"""Soniq's sync connection: psycopg's, with asyncpg's three short ways to fetch."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import rows
from psycopg.abc import RV, PQGen

from . import faults
from .psycopg_hosts import PlainCursor
from .render import numbered


class Connection(psycopg.Connection[rows.TupleRow]):
    """A `psycopg.Connection`, to which `fetch`, `fetchrow` and `fetchval` are added.

    Attributes:
        limit: Seconds any one answer may take; None: no limit.
        idle_since: When it last came back to its pool, by `time.monotonic`.
        expires: When its pool replaces it, by `time.monotonic`.
        generation: How often its pool was renewed before it was made.
    """

    limit: float | None = None
    idle_since: float = 0.0
    expires: float = float("inf")
    generation: int = 0
    plain_cursor: PlainCursor | None = None

    def fetch(self, query: LiteralString, *params: object) -> list[rows.TupleRow]:
        """Give all rows. Placeholders are `$1` or `%s`."""
        return self._run(query, params).fetchall()

    def fetchrow(self, query: LiteralString, *params: object) -> rows.TupleRow | None:
        """Give the first row, or None. Placeholders are `$1` or `%s`."""
        return self._run(query, params).fetchone()

    def fetchval(self, query: LiteralString, *params: object) -> Any:
        """Give the first column of the first row, or None. Placeholders are `$1` or `%s`."""
        cursor = self._run(query, params)
        cursor.row_factory = rows.tuple_row
        row = cursor.fetchone()
        return None if row is None else row[0]

    def _run(
        self, query: LiteralString, params: tuple[object, ...]
    ) -> psycopg.Cursor[rows.TupleRow]:
        if params and numbered(query):
            cursor: psycopg.Cursor[rows.TupleRow] = psycopg.RawCursor(self)
            return cursor.execute(query, params)
        return self.cursor().execute(query, params or None)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as psycopg does, but for `limit` at most where no timeout is given.

        Raises:
            DatabaseTimeout: The answer took longer; the connection is closed.
        """
        if timeout is not None or self.limit is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.limit)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise faults.unanswered(self.limit) from None

    def close(self) -> None:
        """Close, and let go of the cursor kept with the connection."""
        self.plain_cursor = None  # it points back: only the cycle collector would free both
        super().close()
