"""Imports only point down, and what is not needed is not loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What is not there is not missed, and what is there is not loaded for nothing.
OTHERS = {"sqlalchemy", "asyncpg", "psycopg2", "django", "flask", "soniq.integrations"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_contracts_are_kept() -> None:
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_soniq_and_its_clients_loads_no_driver_and_no_worker() -> None:
    loaded = python("""
import sys, soniq
assert not {name for name in sys.modules if name.startswith("soniq.")}, "not lazy"
from soniq import Soniq, SoniqSync, JobContext, Snooze, UsageError
eq = Soniq(); twin = eq.sync; SoniqSync()
@eq.job
async def task(): ...
print(*sys.modules)
""").split()
    heavy = {"psycopg", "psycopg_pool", "click", "pydantic", "msgspec", "soniq.worker"}
    assert not heavy.intersection(loaded)
    assert not OTHERS.intersection(loaded)


def test_every_public_name_can_be_had_and_is_listed() -> None:
    python("""
import soniq
for name in soniq.__all__:
    assert getattr(soniq, name) is not None
assert set(soniq.__all__) <= set(dir(soniq))
from soniq import *
try:
    soniq.Sonik
except AttributeError as error:
    assert "Sonik" in str(error)
else:
    raise SystemExit("an unknown name was found")
""")


def test_every_error_is_a_public_name() -> None:
    import soniq
    from soniq import errors

    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.SoniqError)
    }
    inside = {"AppNotFound"}  # of the command line
    assert kinds - inside <= set(soniq.__all__)


def test_a_sync_process_that_enqueues_loads_no_event_loop_of_ours(database_url: str) -> None:
    """psycopg itself imports asyncio; anyio, click and the worker stay out."""
    loaded = python(
        """
import sys
from soniq import SoniqSync
eq = SoniqSync(sys.argv[1])
@eq.job
def task(n: int): ...
job_id = eq.enqueue(task, 1)
eq.enqueue_many(task, [(n,) for n in range(600)])
with eq.backend.acquire() as conn, conn.transaction():
    eq.enqueue(task, 2, connection=conn)
    eq.within(conn).list_jobs()
eq.get_job(job_id); eq.cancel_job(job_id); eq.get_queue_stats(); eq.dead_letter.list()
eq.close()
print(*sys.modules)
""",
        database_url,
    ).split()
    assert "soniq.db.sync" in loaded
    ours = {"anyio", "sniffio", "click", "trio", "soniq.client.aio", "soniq.db.aio"}
    assert not ours.intersection(loaded)
    assert not [name for name in loaded if name.startswith("soniq.worker")]
    assert not OTHERS.intersection(loaded)


def test_only_the_host_of_the_library_that_lends_is_loaded(database_url: str) -> None:
    pytest.importorskip("sqlalchemy")
    loaded = python(
        """
import sys
from soniq import SoniqSync, UnknownConnection
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from psycopg.conninfo import conninfo_to_dict
eq = SoniqSync(sys.argv[1])
@eq.job
def task(n: int): ...
try:
    eq.enqueue(task, 1, connection=object())
except UnknownConnection:
    assert not [name for name in sys.modules if name.startswith("soniq.integrations")]
engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(sys.argv[1]))
with Session(engine) as session:
    eq.enqueue(task, 1, connection=session)
engine.dispose()
print(*sys.modules)
""",
        database_url,
    ).split()
    assert "soniq.integrations.sqlalchemy" in loaded
    assert not (OTHERS - {"sqlalchemy", "soniq.integrations"}).intersection(loaded)
    assert not {"anyio", "soniq.client.aio", "soniq.db.aio"}.intersection(loaded)
