"""Making the schema, and the database itself; other schemas; connecting late and after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo

from soniq import (
    AccessDenied,
    EmbeddedUnavailable,
    SettingsError,
    Soniq,
    SoniqSync,
    TaskRef,
    UsageError,
)

from .colour import entered, settled

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
in_sync = pytest.mark.parametrize("colour", ["sync"], indirect=True)

SOMETHING = TaskRef("something")


@pytest.fixture
def missing_database(empty_database: str) -> Iterator[str]:
    """The URL of a database that is not there, on a server that is."""
    name = f"soniq test {uuid4().hex}"
    yield make_conninfo(empty_database, dbname=name)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


async def test_setup_makes_the_database_and_the_schema_and_can_be_repeated(
    make_client: Callable[..., Any], missing_database: str
) -> None:
    eq = make_client(missing_database, schema="oTher")
    applied = await settled(eq.setup())
    assert applied[0] == "0001_pre_tables"
    assert await settled(eq.setup()) == []
    await settled(eq.ensure_initialized())
    job_id = await settled(eq.enqueue(SOMETHING))
    assert (await settled(eq.get_job(job_id))).task == "something"


async def test_a_role_that_may_not_make_the_database_is_told_what_to_do(
    make_client: Callable[..., Any], missing_database: str, empty_database: str
) -> None:
    role = f"r_{uuid4().hex}"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            eq = make_client(make_conninfo(missing_database, user=role))
            with pytest.raises(AccessDenied, match=r"may not create it.*createdb"):
                await settled(eq.setup())
        finally:
            connection.execute(f"DROP ROLE {role}".encode())


def test_ten_processes_set_up_at_once_and_all_succeed(missing_database: str) -> None:
    code = "import sys; from soniq import SoniqSync; print(SoniqSync(sys.argv[1]).setup())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, missing_database],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    said = [(*process.communicate(timeout=50), process.returncode) for process in started]
    assert [(code, err) for _, err, code in said] == [(0, "")] * 10
    applied = [name for out, _, _ in said for name in eval(out)]
    with psycopg.connect(missing_database) as connection:
        kept = connection.execute("SELECT name FROM soniq.migrations ORDER BY version").fetchall()
    assert sorted(applied) == [name for (name,) in kept]  # each by exactly one of them


async def test_an_application_in_one_schema_knows_nothing_of_another(
    make_client: Callable[..., Any], database_url: str, stored: Callable[[], int]
) -> None:
    other = make_client(database_url, schema="other")
    await settled(other.setup())
    await settled(other.enqueue(SOMETHING))
    assert stored() == 0
    assert len(await settled(other.list_jobs())) == 1


# -- connections


async def test_nothing_is_connected_before_it_is_needed_and_a_closed_client_opens_again(
    eq: Any, witness: Callable[..., Any]
) -> None:
    count = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND application_name = 'soniq'"""
    eq.job("something")(lambda: None)
    assert witness(count) == [(0,)]
    await settled(eq.enqueue("something"))
    assert witness(count)[0][0] >= 1
    await settled(eq.close())
    await settled(eq.close())
    await settled(eq.enqueue("something"))
    async with entered(eq) as same:
        assert same is eq
        await settled(eq.enqueue("something"))


@in_sync  # a forked child cannot go on in its parent's event loop: the next test
async def test_after_a_fork_the_child_and_the_parent_both_enqueue(
    eq: Any, database_url: str, stored: Callable[[], int]
) -> None:
    """As gunicorn --preload does: the application was used before its workers were forked."""
    eq.enqueue(SOMETHING)
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                eq.enqueue(SOMETHING)
                eq.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        eq.enqueue(SOMETHING)
    assert stored() == 5


def test_an_async_client_used_before_a_fork_works_in_the_childs_own_loop(
    database_url: str, stored: Callable[[], int]
) -> None:
    code = """
import asyncio, os, sys
from soniq import Soniq, TaskRef
eq = Soniq(sys.argv[1])
asyncio.run(eq.enqueue(TaskRef("something")))
child = os.fork()
asyncio.run(eq.enqueue(TaskRef("something")))
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code, database_url], env=environment, check=True, timeout=50
    )
    assert stored() == 3


async def test_the_users_own_pool_and_factory_are_used(
    make_client: Callable[..., Any], database_url: str, colour: str, connect: Any
) -> None:
    import psycopg_pool

    if colour != "trio":
        kinds: dict[str, Any] = {
            "sync": psycopg_pool.ConnectionPool,
            "asyncio": psycopg_pool.AsyncConnectionPool,
        }
        pool = kinds[colour](database_url, min_size=1, max_size=2, open=False)
        async with entered(pool):
            eq = make_client(pool=pool)
            job_id = await settled(eq.enqueue(SOMETHING))
            assert (await settled(eq.get_job(job_id))).id == job_id
            await settled(eq.close())
            assert not pool.closed
    made: list[Any] = []

    def factory() -> Any:
        from soniq.db.connection import AnyioConnection
        from soniq.db.sync_connection import Connection

        made.append(1)
        return (Connection if colour == "sync" else AnyioConnection).connect(database_url)

    eq = make_client(connection_factory=factory)
    await settled(eq.enqueue(SOMETHING))
    assert made


async def test_a_pool_or_a_factory_that_is_none_is_refused(
    make_client: Callable[..., Any], colour: str, database_url: str
) -> None:
    """What was given failed with an AttributeError deep in the driver."""
    ours = "Connection" if colour == "sync" else "AsyncConnection"
    other = psycopg_pool.AsyncConnectionPool if colour == "sync" else psycopg_pool.ConnectionPool
    for pool, says in (
        (5, "takes an open pool of psycopg_pool, not int"),
        (other, "takes an open pool"),
        (other(database_url, open=False), f"is for the other client. Pass an? {ours}Pool, or"),
    ):
        with pytest.raises(UsageError, match=says):
            await settled(make_client(pool=pool).list_jobs())

    async def coroutine() -> None: ...

    for made in (lambda: 5, lambda: None, coroutine):
        client = make_client(connection_factory=made)
        with pytest.raises(UsageError, match=f"and this client needs psycopg.{ours}"):
            await settled(client.list_jobs())


def test_the_twin_of_a_client_with_a_pool_of_its_own_needs_a_url() -> None:
    eq = Soniq(connection_factory=lambda: None)
    with pytest.raises(SettingsError, match="database_url="):
        eq.sync.enqueue(SOMETHING)


# -- the two clients of one application


@pytest.mark.parametrize("colour", ["asyncio", "trio"], indirect=True)
async def test_the_sync_twin_shares_tasks_settings_and_hooks_and_has_its_own_pool(
    make_client: Callable[..., Any], database_url: str
) -> None:
    eq = make_client(database_url, max_retries=7)

    @eq.job("shared")
    async def shared(n: int) -> None: ...

    twin = eq.sync
    assert isinstance(twin, SoniqSync)
    assert twin is eq.sync
    assert twin.settings is eq.settings
    assert twin.registry is eq.registry
    assert twin.hooks is eq.hooks
    assert twin.bus is eq.bus
    job_id = twin.enqueue(shared, 1)
    assert (await eq.get_job(job_id)).max_attempts == 8
    with twin.backend.acquire() as connection:
        assert connection.fetchval("SELECT 1") == 1
        with pytest.raises(UsageError, match="bound"):
            eq.within(connection).sync  # noqa: B018


# -- without a URL


async def test_production_refuses_the_embedded_server(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SONIQ_DATABASE_URL", raising=False)
    eq = make_client(environment="production")
    with pytest.raises(EmbeddedUnavailable, match="SONIQ_DATABASE_URL"):
        await settled(eq.enqueue(SOMETHING))


def test_without_any_configuration_the_first_operation_just_works(
    colour: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import tempfile

    code = """
import sys, anyio
from soniq import Soniq, SoniqSync
def task(n: int): ...
if sys.argv[1] == "sync":
    eq = SoniqSync(); eq.job("task")(task)
    print(eq.get_job(eq.enqueue("task", n=1)).status, eq.setup())
    eq.close()
else:
    async def main():
        eq = Soniq(); eq.job("task")(task)
        print((await eq.get_job(await eq.enqueue("task", n=1))).status, await eq.setup())
        await eq.close()
    anyio.run(main, backend=sys.argv[1])
"""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("SONIQ_")},
            "PYTHONPATH": str(ROOT),
            "SONIQ_EMBEDDED_DIR": f"{folder}/pg",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, colour],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )
    assert done.stderr == ""
    assert done.stdout.startswith("queued ['0001_pre_tables', ")
