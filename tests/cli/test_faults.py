"""Foreseeable faults: one or two lines on stderr, no traceback, no secret, the right exit code."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from .conftest import PATIENCE, Shell

pytestmark = PATIENCE

COMMANDS = [
    ("status",),
    ("jobs", "list"),
    ("dead-letter", "list"),
    ("enqueue", "app.welcome", "user_id=1"),
    ("worker",),
]
IDS = [" ".join(command[:2]) for command in COMMANDS]


def fault(shell: Shell, *args: str, **env: str) -> str:
    done = shell(*args, code=1, **env)
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert 1 <= len(said) <= 2, done.stderr
    assert said[0].startswith("soniq: ")
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr
    return said[0]


@pytest.mark.parametrize("command", [*COMMANDS, ("setup",), ("migrate-status",)])
def test_a_server_that_is_not_there(shell: Shell, command: tuple[str, ...]) -> None:
    url = "postgresql://me:s3cret@127.0.0.1:1/nowhere"
    said = fault(shell, *command, SONIQ_DATABASE_URL=url)
    assert 'could not be reached: connection to server at "127.0.0.1"' in said
    assert "refused. Is the server running" in said
    assert said.endswith("TCP/IP connections? Start it, or correct the database URL.")


def test_a_host_that_has_no_address(shell: Shell) -> None:
    said = fault(shell, "status", SONIQ_DATABASE_URL="postgresql://me:s3cret@nowhere.invalid/x")
    assert "could not be reached: failed to resolve host 'nowhere.invalid'" in said
    assert said.endswith(". Start it, or correct the database URL.")


@pytest.mark.parametrize("command", [*COMMANDS, ("setup",)], ids=[*IDS, "setup"])
def test_a_user_who_may_not(shell: Shell, database_url: str, command: tuple[str, ...]) -> None:
    url = make_conninfo(database_url, user="nobody_here", password="s3cret")
    assert "nobody_here" in fault(shell, *command, SONIQ_DATABASE_URL=url)


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_a_database_that_was_never_made(
    shell: Shell, database_url: str, command: tuple[str, ...]
) -> None:
    said = fault(
        shell, *command, SONIQ_DATABASE_URL=make_conninfo(database_url, dbname="never_made")
    )
    assert "never_made" in said
    assert "soniq setup" in said


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_a_database_without_the_schema(
    shell: Shell, empty_database: str, command: tuple[str, ...]
) -> None:
    assert "soniq setup" in fault(shell, *command, SONIQ_DATABASE_URL=empty_database)


@pytest.mark.parametrize("command", [("setup",), ("status",), ("worker",)])
def test_a_schema_newer_than_this_release(
    shell: Shell, database: psycopg.Connection[Any], command: tuple[str, ...]
) -> None:
    _add_newer(database)
    said = fault(shell, *command)
    assert "9000_post_gone" in said
    assert "Upgrade soniq" in said


def test_migrate_status_tells_of_a_newer_schema(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    _add_newer(database)
    done = shell("migrate-status", code=1)
    assert "newer\t9000_post_gone" in done.stdout
    assert "Upgrade soniq" in done.stderr


def _add_newer(database: psycopg.Connection[Any]) -> None:
    database.execute(
        "INSERT INTO soniq.migrations (version, name, checksum) VALUES (9000, '9000_post_gone', '')"
    )


def test_a_url_that_cannot_be_read_is_not_shown(shell: Shell) -> None:
    said = fault(shell, "status", "--database-url", "postgresql://me:s3cret@[half/x")
    assert "cannot be read" in said


@pytest.mark.parametrize(
    ("name", "value"), [("SONIQ_CONCURRENCY", "many"), ("SONIQ_LOG_FORMAT", "xml")]
)
def test_a_setting_that_cannot_be(shell: Shell, name: str, value: str) -> None:
    said = shell("status", code=1, **{name: value}).stderr
    assert f"{name}" in said
    assert repr(value) in said
    assert "Traceback" not in said


@pytest.mark.parametrize("option", ["--concurrency", "--threads"])
def test_a_worker_option_out_of_range(shell: Shell, option: str) -> None:
    said = fault(shell, "worker", option, "0")
    assert "out of range" in said


def test_the_password_is_not_in_any_output(shell: Shell, database_url: str) -> None:
    url = make_conninfo(database_url, password="s3cret")
    for command in (("setup",), ("status",), ("status", "--json"), ("worker", "--burst")):
        done = shell(*command, SONIQ_DATABASE_URL=url)
        assert "s3cret" not in done.stdout + done.stderr
        assert "***" in done.stdout + done.stderr or command == ("status",)


def test_debug_shows_the_traceback(shell: Shell, empty_database: str) -> None:
    for args in (("--debug", "status"), ("status", "--debug")):
        said = shell(*args, code=1, SONIQ_DATABASE_URL=empty_database).stderr
        assert "Traceback" in said
        assert said.splitlines()[-1].startswith("soniq: ")


def test_without_any_database_in_production_both_ways_out_are_named(bare: Shell) -> None:
    said = fault(bare, "status", SONIQ_ENVIRONMENT="production")
    assert "SONIQ_DATABASE_URL" in said


def test_a_fault_nobody_foresaw_comes_with_its_traceback(shell: Shell) -> None:
    shell.write(
        app="from soniq import SoniqSync\n"
        "class Odd(SoniqSync):\n"
        "    def get_queue_stats(self): raise ZeroDivisionError('odd')\n"
        "eq = Odd()\n"
    )
    said = shell("status", code=1).stderr
    assert "Traceback" in said
    assert "ZeroDivisionError: odd" in said
    assert "please report it" in said.splitlines()[-1]
