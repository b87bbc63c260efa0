"""Every error of the database, in Soniq's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from soniq import errors
from soniq.db import sync
from soniq.db.faults import translate
from soniq.settings import Settings
from soniq.steps import Query, Script

from .conftest import Colour, ask, settled

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(colour_name: str) -> str:
    return "trio" if colour_name == "trio" else "asyncio"


def raising(sqlstate: str, message: str = "as asked") -> Any:
    """An operation that makes the server raise an error of that code."""
    yield from Script(
        f"DO $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{sqlstate}'; END $$"
    )


CODES = {
    "28000": errors.AccessDenied,
    "28P01": errors.AccessDenied,
    "42501": errors.AccessDenied,
    "25006": errors.ReadOnlyServer,
    "25P02": errors.TransactionAborted,
    "08006": errors.ConnectionLost,
    "57P01": errors.ConnectionLost,
    "57P03": errors.ConnectionLost,
    "57P05": errors.ConnectionLost,
    "57014": errors.DatabaseTimeout,
    "40001": errors.TransientError,
    "40P01": errors.TransientError,
    "53100": errors.TransientError,
    "53300": errors.TransientError,
    "55P03": errors.TransientError,
    "22021": errors.DatabaseError,
    "22P05": errors.DatabaseError,
    "23505": errors.DatabaseError,
    "42601": errors.DatabaseError,
    "XX000": errors.DatabaseError,
    "42P01": errors.DatabaseError,  # a table, but none of ours
}


@pytest.mark.parametrize(("code", "kind"), CODES.items())
async def test_a_code_becomes_an_error(colour: Colour, code: str, kind: type[Any]) -> None:
    with pytest.raises(errors.DatabaseError) as caught:
        await settled(colour.database().run(raising, code))
    assert type(caught.value) is kind
    assert caught.value.sqlstate == code
    assert "as asked" in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM {soniq}.jobs",
        "SELECT {soniq}.enqueue('x')",
        "CREATE TABLE {soniq}.t (n int)",
        "SELECT missing_column FROM pg_class",
    ],
)
async def test_a_missing_schema_names_the_command_that_makes_it(colour: Colour, sql: str) -> None:
    with pytest.raises(errors.SchemaMissing, match="soniq setup"):
        await settled(colour.database().run(ask, sql))


async def test_a_missing_database_is_named(colour: Colour) -> None:
    colour.url = make_conninfo(colour.url, dbname="not_here")
    with pytest.raises(errors.SettingsError, match=r"not_here.*soniq setup") as caught:
        await settled(colour.database().run(ask, "SELECT 1"))
    assert isinstance(caught.value, errors.DatabaseMissing)


async def test_a_role_that_may_not_log_in_is_denied(colour: Colour) -> None:
    colour.url = make_conninfo(colour.url, user="nobody_of_that_name", password="pa55word")
    with pytest.raises(errors.AccessDenied, match="nobody_of_that_name") as caught:
        await settled(colour.database().run(ask, "SELECT 1"))
    assert "pa55word" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_role_without_a_right_is_denied(colour: Colour, witness: Any) -> None:
    witness("CREATE TABLE public.t (n int)")
    role = f"soniq_powerless_{uuid4().hex}"  # roles are the whole server's, other tests' as well
    witness(f"CREATE ROLE {role}")

    def operation() -> Any:
        yield from Query(f"SET ROLE {role}")  # type: ignore[arg-type]
        try:
            yield from Query("SELECT n FROM public.t")
        finally:
            yield from Query("RESET ROLE")

    try:
        with pytest.raises(errors.AccessDenied, match="rights of the role"):
            await settled(colour.database().run(operation))
    finally:
        witness(f"DROP ROLE {role}")


async def test_no_server_is_said_at_once(colour: Colour) -> None:
    colour.url = "postgresql://someone:pa55word@127.0.0.1:1/nowhere"
    database = colour.database(pool_timeout=60)
    with pytest.raises(errors.ConnectionLost, match="refused") as caught:
        await settled(database.run(ask, "SELECT 1"))
    assert "pa55word" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_malformed_url_is_an_error_of_the_settings(colour: Colour) -> None:
    colour.url = "postgresql://user:pa55 word@[::1/db"
    with pytest.raises(errors.SettingsError, match="cannot be read") as caught:
        await settled(colour.database().run(ask, "SELECT 1"))
    assert "pa55" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_text_with_nul_is_an_error_of_the_database(colour: Colour) -> None:
    with pytest.raises(errors.DatabaseError, match="NUL") as caught:
        await settled(colour.database().run(ask, "SELECT CAST(%(t)s AS text)", {"t": "a\0b"}))
    assert type(caught.value) is errors.DatabaseError


async def test_detail_that_quotes_data_stays_out_of_the_message(
    colour: Colour, witness: Any
) -> None:
    witness("CREATE TABLE t (secret text PRIMARY KEY)")
    witness("INSERT INTO t VALUES ('hush')")
    with pytest.raises(errors.DatabaseError) as caught:
        await settled(colour.database().run(ask, "INSERT INTO t VALUES ('hush')"))
    assert "hush" not in str(caught.value)


def test_a_refused_login_is_told_by_its_words() -> None:
    """libpq gives no SQLSTATE for a connection that was never made."""
    said = {
        'FATAL:  password authentication failed for user "x"': errors.AccessDenied,
        'FATAL:  no pg_hba.conf entry for host "::1"': errors.AccessDenied,
        "FATAL:  sorry, too many clients already": errors.TransientError,
        "FATAL:  the database system is starting up": errors.ConnectionLost,
        "server closed the connection unexpectedly": errors.ConnectionLost,
    }
    for words, kind in said.items():
        fault = translate(psycopg.OperationalError(f"connection failed: {words}"), "soniq")
        assert type(fault) is kind, words


async def test_what_libpq_cannot_use_of_a_url_is_an_error_of_the_settings(colour: Colour) -> None:
    """A port that cannot be was a `ConnectionLost`, which asks to be tried again."""
    for url, says in (
        ("postgresql://u@127.0.0.1:99999/x", "invalid port number"),
        ("postgresql://u@127.0.0.1/x?sslmode=nope", "invalid sslmode value"),
    ):
        colour.url = url
        with pytest.raises(errors.SettingsError, match=f"cannot be used: {says}.*Correct it"):
            await settled(colour.database().run(ask, "SELECT 1"))


async def test_a_socket_that_is_not_there_says_the_next_step(
    colour: Colour, tmp_path: Path
) -> None:
    colour.url = f"host={tmp_path} dbname=x"
    with pytest.raises(errors.ConnectionLost, match="Start it, or correct the database URL"):
        await settled(colour.database().run(ask, "SELECT 1"))


def test_a_read_only_transaction_is_a_read_only_server(scratch: str) -> None:
    database = sync.Database(
        Settings(),
        url=lambda: make_conninfo(scratch, options="-c default_transaction_read_only=on"),
    )
    try:
        with pytest.raises(errors.ReadOnlyServer, match="primary"):
            database.run(ask, "CREATE TABLE t (n int)")
    finally:
        database.close()
