"""What every test may ask for: a real server, databases on it, and both event loops."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from psycopg.conninfo import make_conninfo

from soniq.settings import Settings, load

# Properties are about what is so, not about how soon on a machine that others use as well.
hypothesis_settings.register_profile("unhurried", deadline=None)
hypothesis_settings.register_profile("long", deadline=None)
hypothesis_settings.load_profile("unhurried")


def pytest_configure() -> None:
    # A shell has what it runs in the background ignore SIGINT: tests of Ctrl-C would wait in vain.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def worker_name(request: pytest.FixtureRequest) -> str:
    """`gw0` and so on under xdist, and one that no other run of the suite has in any case."""
    return f"{getattr(request.config, 'workerinput', {}).get('workerid', 'gw')}_{os.getpid()}"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server: SONIQ_TEST_DATABASE_URL, or an embedded one that all xdist workers share."""
    given = os.environ.get("SONIQ_TEST_DATABASE_URL")
    if given:
        yield given
        return
    from soniq.db.embedded import EmbeddedServer

    server = EmbeddedServer(server_folder(tmp_path_factory.getbasetemp()))
    server.start()
    _make_careless(server.url("postgres"))
    try:
        yield server.url("postgres")
    finally:
        server.close()


def server_folder(base: Path) -> Path:
    """Name the server's folder; not in pytest's, which only its owner may enter."""
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Path(tempfile.gettempdir()) / f"soniq-tests-{shared.name}-{shared.stat().st_ino}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the server's folder once its last user has gone and it has stopped."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is None or "PYTEST_XDIST_WORKER" in os.environ:
        return
    folder = server_folder(factory.getbasetemp())
    deadline = time.monotonic() + 10
    while any(folder.rglob("postmaster.pid")) and time.monotonic() < deadline:
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _make_careless(url: str) -> None:
    """Take away what only a power cut needs: to make a database costs a third of it then."""
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def keeper(server_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that makes and drops databases."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def make_database(
    server_url: str, keeper: psycopg.Connection[Any], worker_name: str
) -> Iterator[Callable[..., str]]:
    """Make a database, from a template if one is named; answer its URL."""
    numbers = count()

    def make(template: str = "template0") -> str:
        name = f"soniq_test_{worker_name}_{next(numbers)}"
        keeper.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return make_conninfo(server_url, dbname=name)

    return make


def drop(keeper: psycopg.Connection[Any], url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    keeper.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def empty_database(
    make_database: Callable[..., str], keeper: psycopg.Connection[Any]
) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    url = make_database()
    yield url
    drop(keeper, url)


@pytest.fixture(scope="session")
def migrated_template(
    make_database: Callable[..., str], keeper: psycopg.Connection[Any]
) -> Iterator[str]:
    """The name of a database with Soniq's schema, to copy; made once for each xdist worker."""
    from soniq.db.sync import Database
    from soniq.schema.migrate import setup

    url = make_database()
    database = Database(Settings(), url=lambda: url)
    database.run(setup)
    database.close()
    yield str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
    drop(keeper, url)


@pytest.fixture
def database_url(
    make_database: Callable[..., str],
    keeper: psycopg.Connection[Any],
    migrated_template: str,
) -> Iterator[str]:
    """The URL of a fresh database with Soniq's schema."""
    url = make_database(migrated_template)
    yield url
    drop(keeper, url)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """The defaults, for a fresh database; neither the environment nor a pyproject.toml is read."""
    return load({"database_url": database_url}, environ={}, folder=tmp_path)
