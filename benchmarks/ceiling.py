"""The ceilings of enqueueing: the same rows written by bare psycopg, with no library around it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import psycopg

from soniq.job.ids import new_id

# Equal in columns, defaults, indexes and storage; nobody is notified of its rows.
TABLE = """
    CREATE SCHEMA bare;
    CREATE TABLE bare.jobs (LIKE soniq.jobs INCLUDING ALL);
    DO $$ DECLARE options text; BEGIN
        SELECT string_agg(option, ', ') INTO options
        FROM pg_class, unnest(reloptions) AS option
        WHERE oid = CAST('soniq.jobs' AS regclass);
        IF options IS NOT NULL THEN
            EXECUTE format('ALTER TABLE bare.jobs SET (%s)', options);
        END IF;
    END $$;"""

INSERT = "INSERT INTO bare.jobs (id, task, queue, args) VALUES (%s, %s, %s, %s)"


def create_table(connection: psycopg.Connection) -> None:
    """Make the table of the ceilings beside Soniq's."""
    connection.execute(TABLE)


def values(i: int) -> tuple[str, str, str, str]:
    """Give the same values that Soniq stores for one job."""
    return new_id(), "noop", "default", json.dumps({"i": i})


def insert(connection: psycopg.Connection, count: int) -> None:
    """Insert one by one, each its own transaction."""
    for i in range(count):
        connection.execute(INSERT, values(i))


async def insert_async(connection: psycopg.AsyncConnection, numbers: Iterable[int]) -> None:
    """Insert one by one, each its own transaction."""
    for i in numbers:
        await connection.execute(INSERT, values(i))


async def insert_within(connection: psycopg.AsyncConnection, numbers: Iterable[int]) -> None:
    """Insert each in a transaction that was opened for it."""
    for i in numbers:
        async with connection.transaction():
            await connection.execute(INSERT, values(i))


def copy(
    connection: psycopg.Connection, table: str, task: str, calls: Iterable[Mapping[str, object]]
) -> None:
    """Copy rows in, their lines written by hand: the quickest that plain Python does."""
    statement = f"COPY {table} (id, task, queue, args) FROM STDIN"
    lines: list[str] = []
    with connection.cursor().copy(statement) as stream:
        for args in calls:
            lines.append(f"{new_id()}\t{task}\tdefault\t{json.dumps(args)}\n")
            if len(lines) == 2000:
                stream.write("".join(lines))
                lines.clear()
        stream.write("".join(lines))
