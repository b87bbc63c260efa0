"""The names we use of psycopg that it does not promise: a release that changes them fails here."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg._queries import _query2pg
from psycopg.postgres import register_default_adapters, register_default_types

from soniq.db.psycopg_hosts import PLAIN, PlainAsyncCursor, PlainCursor
from soniq.db.sync_connection import Connection


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_private_names_of_connections_are_there() -> None:
    base = psycopg.AsyncConnection
    for name in (
        "_connect_gen",
        "_cancel_gen",
        "_should_cancel",
        "_try_cancel",
        "_get_connection_params",
        "_check_connection_ok",
    ):
        assert callable(getattr(base, name)), name
    assert parameters(base.wait) == ["self", "gen", "interval", "timeout"]
    assert parameters(psycopg.Connection.wait) == ["self", "gen", "interval", "timeout"]
    assert parameters(base.cancel_safe) == ["self", "timeout"]
    assert parameters(base._try_cancel) == ["self", "timeout"]
    assert parameters(base.transaction) == ["self", "savepoint_name", "force_rollback"]
    made = parameters(psycopg.AsyncTransaction.__init__)
    assert made == ["self", "connection", "savepoint_name", "force_rollback"]


def test_the_private_modules_and_errors_are_there() -> None:
    from psycopg._conninfo_attempts import conninfo_attempts

    assert parameters(conninfo_attempts) == ["params"]
    assert issubclass(psycopg.errors._WaitTimeout, psycopg.OperationalError)
    assert callable(psycopg.waiting.wait_async)
    assert callable(psycopg.capabilities.has_cancel_safe)
    assert callable(register_default_types)
    assert callable(register_default_adapters)


def test_connecting_takes_the_options_that_the_trio_path_sets(scratch: str) -> None:
    options = set(parameters(psycopg.AsyncConnection.connect)) - {"conninfo", "kwargs"}
    assert options == {
        "autocommit",
        "prepare_threshold",
        "context",
        "row_factory",
        "cursor_factory",
    }


def test_the_private_state_of_a_connection_is_there(scratch: str) -> None:
    with Connection.connect(scratch, autocommit=True) as connection:
        assert connection._autocommit is True
        assert connection._pipeline is None
        assert connection._adapters is None
        assert connection.pgconn.pipeline_status == pq.PipelineStatus.OFF


def test_a_plain_cursor_uses_the_plain_adapters(scratch: str) -> None:
    with Connection.connect(scratch, autocommit=True) as connection:
        cursor = PlainCursor(connection)
        assert cursor.adapters is PLAIN
        assert callable(cursor._fetch_pipeline)
        assert cursor.execute("SELECT 1, 'a', true").fetchall() == [(1, "a", True)]
    assert inspect.iscoroutinefunction(PlainAsyncCursor._fetch_pipeline)


def test_the_short_way_finds_what_psycopg_has_prepared(scratch: str) -> None:
    asked = "SELECT CAST(%(b)s AS text), CAST(%(a)s AS text), CAST(%(b)s AS text)"
    query = b"SELECT CAST($1 AS text), CAST($2 AS text), CAST($1 AS text)"
    assert _query2pg(asked.encode(), "utf-8")[::2] == (query, ["b", "a"])
    with Connection.connect(scratch, autocommit=True, prepare_threshold=0) as connection:
        PlainCursor(connection).execute(asked.encode(), {"a": "x", "b": None})
        manager = connection._prepared
        assert dict(manager._names) == {(query, (0, 0)): b"_pg3_0"}
        assert isinstance(manager._names, OrderedDict)
        assert not manager._to_flush
        assert manager.prepare_threshold == 0
        connection.pgconn.send_query_prepared(b"_pg3_0", [None, b"x"])
        (result,) = connection.wait(generators.execute(connection.pgconn))
        assert result.get_value(0, 1) == b"x"


def test_a_dropped_connection_that_says_it_is_pooled_gives_no_warning(scratch: str) -> None:
    """Warnings are errors here, and one in `__del__` is reported by pytest."""
    connection = Connection.connect(scratch)
    connection._pool = None
    del connection


def test_sync_code_starts_no_event_loop_library() -> None:
    script = (
        "import sys, soniq.db.sync; "
        "print(sorted({'anyio', 'trio', 'sniffio', 'click'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
