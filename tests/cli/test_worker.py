"""`soniq worker`: the recipe's command, signals, threads that hang, connections that break."""

from __future__ import annotations

import json
import signal
from typing import Any

import psycopg
import pytest

from .conftest import PATIENCE, Shell, until

pytestmark = PATIENCE

RECIPE = """
from soniq import Soniq
from soniq.job import JobContext

eq = Soniq(database_url={url!r})

@eq.job(queue="emails", max_retries=3, retry_delay=[5, 30, 300])
async def send_welcome_email(user_id: int, ctx: JobContext): ...

@eq.job(queue="emails", max_retries=5, retry_delay=10, retry_backoff=True, retry_max_delay=3600)
async def send_email_with_backoff(user_id: int): ...
"""

MIXED = """
import os
import time

import anyio

from soniq import Soniq
from soniq.job import JobContext

eq = Soniq()
SECONDS = float(os.environ["SECONDS"])


@eq.job
async def on_loop(n: int):
    await anyio.sleep(SECONDS if n % 2 else 0.3)


@eq.job
def in_thread(n: int, ctx: JobContext):
    end = time.monotonic() + (SECONDS if n % 2 else 0.3)
    while time.monotonic() < end:
        ctx.check_cancelled()
        time.sleep(0.01)
"""


def count(database: psycopg.Connection[Any], where: str) -> int:
    row = database.execute(f"SELECT count(*) FROM soniq.jobs WHERE {where}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_the_recipes_command_works_as_it_stands(shell: Shell, database_url: str) -> None:
    shell.env.pop("SONIQ_DATABASE_URL")
    shell.write(app=RECIPE.format(url=database_url))
    job_id = shell("enqueue", "send_welcome_email", "user_id=1").stdout.strip()
    other = shell("enqueue", "send_welcome_email", "user_id=1", "-Q", "other").stdout.strip()
    worker = shell.worker("--queues", "emails", "--concurrency", "2")
    until(lambda: '"done"' in shell("jobs", "show", job_id, "--json").stdout)
    assert shell.end(worker) == 0
    (start,) = [line for line in shell.said(worker).splitlines() if " starts: " in line]
    assert "queues emails; 2 at once; database " in start
    assert "tasks: app.send_email_with_backoff, app.send_welcome_email" in start
    assert '"queued"' in shell("jobs", "show", other, "--json").stdout


def test_sigterm_amid_fifty_jobs_loses_none_and_counts_none_as_failed(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    shell.write(app=MIXED)
    shell.env["SECONDS"] = "600"
    database.execute(
        "INSERT INTO soniq.jobs (id, task, args) SELECT soniq.uuid7(), "
        "CASE WHEN n % 4 < 2 THEN 'app.on_loop' ELSE 'app.in_thread' END, "
        "jsonb_build_object('n', n) FROM generate_series(1, 50) AS n"
    )
    worker = shell.worker("--concurrency", "50", SONIQ_SHUTDOWN_TIMEOUT="1")
    # The short half is done, the long half runs.
    until(lambda: count(database, "true") == count(database, "state = 'processing'") == 25)
    assert shell.end(worker) == 0, shell.said(worker)
    assert count(database, "state = 'processing'") == 0
    # Long ones were cut short and went back; their attempt is as if it had never been.
    assert count(database, "true") == 25
    assert count(database, "attempt > 0 OR attempts IS NOT NULL") == 0
    shell("worker", "--burst", "--concurrency", "50", SECONDS="0")
    done = database.execute("SELECT attempt, attempts FROM soniq.history WHERE state = 'done'")
    assert done.fetchall() == [(1, None)] * 50


def test_a_thread_that_hangs_cannot_hold_the_process_and_its_job_is_named(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    shell.write(
        app="import threading\nfrom soniq import Soniq\neq = Soniq()\n"
        "@eq.job\ndef stuck(): threading.Event().wait()\n"
    )
    job_id = shell("enqueue", "stuck").stdout.strip()
    worker = shell.worker(SONIQ_SHUTDOWN_TIMEOUT="0.1", SONIQ_SYNC_GRACE="0.2")
    until(lambda: count(database, "state = 'processing'"))
    assert shell.end(worker) == 1
    last = shell.said(worker).splitlines()[-1]
    assert "threads did not end" in last
    assert job_id in last
    assert count(database, "state = 'processing' AND attempts IS NULL") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_idle_worker_ends_quietly(shell: Shell, number: int) -> None:
    worker = shell.worker()
    assert shell.end(worker, number) == 0
    said = shell.said(worker)
    assert said.splitlines()[-1].endswith("stopped")
    assert "Traceback" not in said
    assert "Warning" not in said


def test_a_second_signal_hurries(shell: Shell, database: psycopg.Connection[Any]) -> None:
    shell.write(app=MIXED)
    shell("enqueue", "on_loop", "n=1", SECONDS="600")
    worker = shell.worker(SECONDS="600")
    until(lambda: count(database, "state = 'processing'"))
    worker.send_signal(signal.SIGTERM)
    until(lambda: "SIGTERM: stopping" in shell.said(worker))
    assert shell.end(worker) == 0
    assert count(database, "state = 'queued' AND attempt = 0 AND attempts IS NULL") == 1


def test_broken_connections_are_survived(shell: Shell, database: psycopg.Connection[Any]) -> None:
    worker = shell.worker()
    until(lambda: "listening" in shell.said(worker))
    broken = database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchall()
    assert len(broken) >= 2
    job_id = shell("enqueue", "welcome", "user_id=1").stdout.strip()
    until(lambda: '"done"' in shell("jobs", "show", job_id, "--json").stdout)
    assert shell.end(worker) == 0
    assert "Traceback" not in shell.said(worker)


def test_a_burst_ends_when_nothing_is_due(shell: Shell, database: psycopg.Connection[Any]) -> None:
    for user in range(3):
        shell("enqueue", "welcome", f"user_id={user}")
    shell("enqueue", "welcome", "user_id=9", "--delay", "1h")
    shell("worker", "--run-once")
    assert count(database, "state = 'scheduled'") == 1
    assert count(database, "true") == 1


def test_the_application_may_be_given_by_place(shell: Shell) -> None:
    shell.write(other="from soniq import SoniqSync\nx = SoniqSync()\n@x.job\ndef f(): ...\n")
    said = shell("worker", "other:x", "--burst").stderr
    assert "tasks: other.f" in said


def test_an_application_without_tasks_is_warned_of(shell: Shell) -> None:
    shell.write(app="from soniq import Soniq\neq = Soniq()\n")
    said = shell("worker", "--burst").stderr
    assert "WARNING the application has no tasks" in said


def test_failures_are_one_line_each_and_json_if_wanted(shell: Shell) -> None:
    job_id = shell("enqueue", "boom", 'x="a\\nb"').stdout.strip()
    lines = shell("worker", "--burst", SONIQ_LOG_FORMAT="json").stderr.splitlines()
    told = [json.loads(line) for line in lines]
    (died,) = [line for line in told if line.get("event") == "JobDied"]
    assert (died["job_id"], died["level"], died["attempt"]) == (job_id, "error", 1)
    assert "\n" not in died["message"]
    again = shell("enqueue", "welcome", "user_id=1").stdout.strip()
    quiet = shell("worker", "--burst", SONIQ_LOG_LEVEL="WARNING").stderr
    assert quiet == ""
    shell("jobs", "retry", again)
    loud = shell("worker", "--burst", SONIQ_LOG_LEVEL="DEBUG").stderr
    assert "app.welcome done in" in loud


def test_an_application_that_logs_by_itself_keeps_its_format(shell: Shell) -> None:
    text = (shell.folder / "app.py").read_text()
    shell.write(
        app=f"import logging\nlogging.basicConfig(format='MINE %(message)s', level='INFO')\n{text}"
    )
    lines = shell("worker", "--burst").stderr.splitlines()
    assert lines
    assert all(line.startswith("MINE ") for line in lines)


def test_a_worker_without_uvloop_works_too(shell: Shell) -> None:
    shell.write(sitecustomize="import sys\nsys.modules['uvloop'] = None\n")
    path = f"{shell.folder}:{shell.env['PYTHONPATH']}"
    shell("enqueue", "welcome", "user_id=1")
    shell("worker", "--burst", PYTHONPATH=path)
    assert '"done"' in shell("jobs", "list", "--json").stdout


def test_every_command_works_in_another_schema(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    """With capitals, so that a name that is not quoted somewhere is noticed."""
    shell.env["SONIQ_SCHEMA"] = "Other_One"
    database.execute("DROP SCHEMA soniq CASCADE")
    shell("setup")
    good = shell("enqueue", "welcome", "user_id=1").stdout.strip()
    later = shell("enqueue", "welcome", "user_id=2", "--delay", "1h").stdout.strip()
    worker = shell.worker()
    until(lambda: json.loads(shell("status", "--json").stdout)["workers"])
    until(lambda: json.loads(shell("jobs", "show", good, "--json").stdout)["status"] == "done")
    assert shell("jobs", "retry", later).stdout.strip() == f"{later} runs now"
    until(lambda: json.loads(shell("jobs", "show", later, "--json").stdout)["status"] == "done")
    assert shell.end(worker) == 0
    shell("migrate-status")
    schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('soniq', 'Other_One')"
    assert database.execute(schemas.encode()).fetchone() == (1,)
