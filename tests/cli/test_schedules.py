"""`soniq schedules` and `soniq scheduler`, as a person and as a program call them."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from .conftest import PATIENCE, Shell, until
from .test_commands import ANSI, at_terminal, rows

pytestmark = PATIENCE

APP = """
from soniq import Soniq
from soniq.schedules import daily, every

eq = Soniq()


@eq.periodic(every(1).seconds(), name="often")
@eq.job(name="tick")
async def tick(): ...


@eq.periodic(daily().at("02:30"), timezone="Europe/Berlin", name="nightly")
@eq.job(name="clean")
def clean(days: int = 7): ...
"""

ADD = """
    INSERT INTO soniq.schedules (name, task, args, every_seconds, moment, next_run)
    VALUES ('mine', 'tick', '{"n": 1}', 90, now() + interval '1 hour', now() + interval '1 hour')"""


@pytest.fixture
def scheduled(shell: Shell, database: psycopg.Connection[Any]) -> Shell:
    """An application whose schedules are kept, and one of a user's."""
    shell.write(app=APP.replace("seconds()", "hours()"))  # nothing is due while it is looked at
    shell("worker", "--run-once")
    database.execute(ADD)
    return shell


def document(shell: Shell, *args: str) -> Any:
    return json.loads(shell("schedules", *args, "--json").stdout)


def test_schedules_are_listed_and_shown(scheduled: Shell) -> None:
    found = {row["NAME"]: row for row in rows(scheduled("schedules", "list").stdout)}
    assert list(found) == ["mine", "nightly", "often"]
    nightly = found["nightly"]
    assert (nightly["WHEN"], nightly["ZONE"]) == ("30 2 * * *", "Europe/Berlin")
    assert (nightly["STATE"], nightly["OWNER"], nightly["LAST"]) == ("active", "code", "-")
    assert (found["often"]["WHEN"], found["mine"]["OWNER"]) == ("every hour", "user")
    (told,) = document(scheduled, "list", "--task", "clean")
    assert (told["name"], told["state"], told["cron"]) == ("nightly", "active", "30 2 * * *")
    assert document(scheduled, "show", "mine")["args"] == {"n": 1}
    shown = scheduled("schedules", "show", "mine").stdout
    assert "every 90 s" in shown
    assert '{"n": 1}' in shown
    code, screen = at_terminal(scheduled, "schedules", "list", NO_COLOR="1")
    assert code == 0
    assert not ANSI.search(screen)
    gone = scheduled("schedules", "show", "none", code=3)
    assert gone.stderr.startswith("soniq: There is no schedule named 'none'")


def test_a_preview_is_in_the_schedules_own_time(scheduled: Shell) -> None:
    moments = scheduled("schedules", "preview", "nightly", "-n", "400").stdout.splitlines()
    assert len(moments) == 400
    hours = {moment[11:16] for moment in moments}
    assert hours == {"02:30", "03:00"}  # in the night that has no 02:30
    assert {moment[-6:] for moment in moments} == {"+01:00", "+02:00"}
    assert document(scheduled, "preview", "nightly", "-n", "2") == moments[:2]


def test_schedules_are_paused_resumed_run_and_removed(
    scheduled: Shell, database: psycopg.Connection[Any]
) -> None:
    said = scheduled("schedules", "pause", "mine", "none", "nightly", code=3)
    assert said.stdout == "mine paused\nnightly paused\n"
    assert "no schedule named 'none'" in said.stderr
    assert scheduled("schedules", "pause", "mine").stdout == "mine was paused already\n"
    assert scheduled("schedules", "resume", "mine").stdout == "mine resumed\n"
    (ran,) = document(scheduled, "run", "mine")
    ((job_id, args),) = database.execute("SELECT CAST(id AS text), args FROM soniq.jobs").fetchall()
    assert ran == {"name": "mine", "done": f"runs now as {job_id}"}
    assert args == {"n": 1}
    refused = scheduled("schedules", "remove", "nightly", code=3)
    assert "the next deploy would bring it back" in refused.stderr
    assert scheduled("schedules", "remove", "mine").stdout == "mine removed\n"
    assert [row["NAME"] for row in rows(scheduled("schedules", "list").stdout)] == [
        "nightly",
        "often",
    ]


def test_a_scheduler_fires_and_runs_nothing(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    shell.write(app=APP)
    process = shell.start("scheduler", "app:eq")
    until(lambda: "schedule often: job " in shell.said(process) or process.poll() is not None)
    assert shell.end(process) == 0, shell.said(process)
    said = shell.said(process)
    assert "scheduler starts: 2 schedules declared; database " in said
    assert "schedules of the code: new: " in said
    states = database.execute("SELECT DISTINCT state FROM soniq.jobs").fetchall()
    assert states == [("queued",)]


def test_workers_leave_schedules_alone_if_they_are_told_to(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    shell.write(app=APP)
    shell("worker", "--no-scheduler", "--run-once")
    shell("worker", "--run-once", SONIQ_SCHEDULER="no")
    assert database.execute("SELECT count(*) FROM soniq.schedules").fetchall() == [(0,)]
    shell("worker", "--scheduler", "--run-once", SONIQ_SCHEDULER="no")
    assert database.execute("SELECT count(*) FROM soniq.schedules").fetchall() == [(2,)]


def test_a_schedule_that_cannot_be_is_told_when_the_module_is_imported(shell: Shell) -> None:
    shell.write(app=APP.replace('daily().at("02:30")', '"30 25 * * *"'))
    failed = shell("worker", "--run-once", code=1)
    assert "cannot be imported: " in failed.stderr
    assert "bad hour" in failed.stderr
