"""The database that is measured: an embedded PostgreSQL of its own, or the one that is named."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import conninfo, sql

from soniq.db.embedded import EmbeddedServer

from . import ceiling


@dataclass(frozen=True)
class Target:
    """Where and how much to measure.

    Attributes:
        url: A database that holds nothing but what is measured.
        quick: Run small: to see that it runs, not for the figures.
        repeats: Pairs measured of each figure.
        seconds: How long figures over time take; None leaves it to each.
        schema: Soniq's, in that database.
    """

    url: str
    quick: bool
    repeats: int
    seconds: float | None = None
    schema: str = "soniq"

    def size(self, full: int) -> int:
        """Scale a number of jobs."""
        return max(1, full // 50) if self.quick else full

    def during(self, full: float) -> float:
        """Choose the seconds of a figure over time; `full` unless something else was asked for."""
        return self.seconds or (full / 40 if self.quick else full)

    def connect(self) -> psycopg.Connection:
        """Open a bare connection in autocommit."""
        return psycopg.connect(self.url, autocommit=True)

    def another(self, schema: str) -> Target:
        """Make a second, empty schema in the same database."""
        with self.connect() as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
        _make_schema(self.url, schema)
        return replace(self, schema=schema)

    def vacuum(self) -> None:
        """Remove dead rows from the table of live jobs, as far as that is possible."""
        with self.connect() as connection:
            connection.execute(f"VACUUM {self.schema}.jobs".encode())

    def dead_rows(self) -> int:
        """Count dead rows in the table of live jobs, as the server's statistics do."""
        with self.connect() as connection:
            with contextlib.suppress(psycopg.Error):  # PostgreSQL 14 has it not
                connection.execute("SELECT pg_stat_force_next_flush()")
            table = f"{self.schema}.jobs"
            return int(_one(connection, DEAD, (table,))[0])

    def megabytes(self) -> float:
        """Measure the table of live jobs and its indexes."""
        with self.connect() as connection:
            return int(_one(connection, SIZE, (f"{self.schema}.jobs",))[0]) / 1e6

    def empty(self) -> None:
        """Empty both tables of jobs, and history."""
        with self.connect() as connection:
            connection.execute("TRUNCATE soniq.jobs, soniq.history, bare.jobs")

    def load(self, table: str, task: str, count: int) -> None:
        """Fill one of the tables with equal jobs, in the order of their ids."""
        self.empty()
        with self.connect() as connection:
            ceiling.copy(connection, table, task, ({"i": i} for i in range(count)))
            connection.execute("ANALYZE soniq.jobs, bare.jobs")


@contextlib.contextmanager
def target(*, quick: bool, repeats: int, seconds: float | None = None) -> Iterator[Target]:
    """Make a database to measure in; drop it, or the whole server, afterwards.

    SONIQ_TEST_DATABASE_URL or SONIQ_DATABASE_URL names a server whose role may create databases.
    """
    named = os.environ.get("SONIQ_TEST_DATABASE_URL") or os.environ.get("SONIQ_DATABASE_URL")
    with _named(named) if named else _embedded() as url:
        _set_up(url)
        yield Target(url, quick, repeats, seconds)


@contextlib.contextmanager
def _named(server: str) -> Iterator[str]:
    name = f"soniq_benchmarks_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield conninfo.make_conninfo(server, dbname=name)
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="soniq-benchmarks-"))
    folder.chmod(0o711)  # root's server runs as somebody else, who must be able to pass through
    server = EmbeddedServer(folder / "postgres")
    try:
        with server:
            _count_statements(server.url("postgres"))
        with server:  # started anew: the library of the counts is loaded at the start only
            yield server.url("soniq_benchmarks")
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


def _count_statements(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        # Counting costs time, so it is done in runs of its own.
        connection.execute("ALTER SYSTEM SET pg_stat_statements.track = 'none'")


def _make_schema(url: str, schema: str) -> None:
    from soniq import SoniqSync

    with SoniqSync(database_url=url, schema=schema) as eq:
        eq.setup()


def _set_up(url: str) -> None:
    _make_schema(url, "soniq")
    with psycopg.connect(url, autocommit=True) as connection:
        ceiling.create_table(connection)
        with contextlib.suppress(psycopg.Error):
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


@dataclass(frozen=True)
class Counts:
    """What the database did.

    Attributes:
        statements: As sent by clients; None where pg_stat_statements is not loaded.
        transactions: Committed ones.
        writes: Rows inserted, updated and deleted in the table of live jobs.
        all_writes: The same in all of Soniq's tables.
    """

    statements: int | None
    transactions: int
    writes: int
    all_writes: int


def counted(url: str, run: Callable[[], object]) -> Counts:
    """Count what the database does for `run`; its connections must be made in it."""
    with psycopg.connect(url, autocommit=True) as connection:
        _track(connection, "top")
        before = _read(connection)
        run()
        after = _read(connection)
        _track(connection, "none")
    return Counts(
        None if after[0] is None or before[0] is None else after[0] - before[0],
        after[1] - before[1],
        after[2] - before[2],
        after[3] - before[3],
    )


def _track(connection: psycopg.Connection, how: str) -> None:
    with contextlib.suppress(psycopg.Error):
        name = sql.Identifier(connection.info.dbname)
        change = sql.SQL("ALTER DATABASE {} SET pg_stat_statements.track = {}")
        connection.execute(change.format(name, sql.Literal(how)))


def _read(connection: psycopg.Connection) -> tuple[int | None, int, int, int]:
    with contextlib.suppress(psycopg.Error):  # PostgreSQL 14 has it not, and needs it not
        connection.execute("SELECT pg_stat_force_next_flush()")
    statements = None
    with contextlib.suppress(psycopg.Error):
        (statements,) = _one(connection, STATEMENTS)
    return statements, *_one(connection, WRITES)


STATEMENTS = """
    SELECT CAST(coalesce(sum(calls), 0) AS bigint) FROM pg_stat_statements s
    JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()"""
WRITES = """
    SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
           CAST(coalesce(sum(n) FILTER (WHERE relname = 'jobs'), 0) AS bigint),
           CAST(coalesce(sum(n), 0) AS bigint)
    FROM (SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS n
          FROM pg_stat_user_tables WHERE schemaname = 'soniq') AS written"""


DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = CAST(%s AS regclass)"
SIZE = "SELECT pg_total_relation_size(CAST(%s AS regclass))"


def _one(
    connection: psycopg.Connection, query: LiteralString, params: tuple[object, ...] = ()
) -> tuple[Any, ...]:
    row = connection.execute(query, params).fetchone()
    assert row is not None
    return row
