"""Ten schedulers, killed at random, and a clock that is put forward and back: one job a moment."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

SCHEDULES = 25
SCHEDULERS = 10
LEAST_KILLED = 12

# Each is of every second, began a while ago, and makes up for all that it missed.
BEGIN = """
    INSERT INTO soniq.schedules
        (name, task, every_seconds, catch_up, catch_up_max, moment, next_run)
    SELECT 's' || n, 'task', 1, 'all', 10000, at, at
    FROM generate_series(1, %s) AS n,
         date_trunc('second', statement_timestamp() - interval '20 seconds') AS at"""

# For the schedules and their jobs the server's clock is put forward, or back.
STEP = """
    UPDATE soniq.schedules SET moment = moment - %(step)s, next_run = next_run - %(step)s,
        last_moment = last_moment - %(step)s, revision = revision + 1;
    UPDATE soniq.jobs SET scheduled_at = scheduled_at - %(step)s"""

TOLD = """
    SELECT s.name, s.runs, count(j.id), count(DISTINCT j.scheduled_at),
           extract(epoch FROM max(j.scheduled_at) - min(j.scheduled_at)) + 1,
           max(j.scheduled_at) = s.last_moment,
           s.moment - max(j.scheduled_at) = interval '1 second'
    FROM soniq.schedules s JOIN soniq.jobs j ON j.tags = ARRAY['schedule:' || s.name]
    GROUP BY s.name"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "moments",
    [1000, pytest.param(25_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_each_moment_is_one_job_whatever_is_killed(database_url: str, moments: int) -> None:
    with psycopg.connect(database_url, autocommit=True) as outside:
        outside.execute(BEGIN.encode(), [SCHEDULES])
        _kill_schedulers(outside, database_url, moments)
        rows = outside.execute(TOLD.encode()).fetchall()
    assert len(rows) == SCHEDULES
    for name, runs, jobs, distinct, span, is_last, is_next in rows:
        # None twice, none left out, and the schedule knows where it is.
        assert jobs == distinct == span == runs, name
        assert is_last, name
        assert is_next, name


def _kill_schedulers(outside: psycopg.Connection[Any], url: str, moments: int) -> None:
    """Kill one after the other until there are so many jobs.

    Each is killed when there are more jobs than at the last death: so something is always done,
    however busy the machine.
    """
    command = [sys.executable, "-m", "tests.worker.schedulers", url, str(SCHEDULERS), "1"]
    dice, killed, jobs = random.Random(moments), 0, 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as ran:
        assert ran.stdin is not None
        try:
            while jobs < moments or killed < LEAST_KILLED:
                if (now := _jobs(outside)) > jobs:
                    jobs, killed = now, killed + 1
                    print("kill", file=ran.stdin, flush=True)
                    if killed % 3 == 0:
                        _step(outside, dice.choice([-2, 3, 7, 7]))
                time.sleep(0.02)
            ran.communicate(timeout=60)
        finally:
            ran.kill()


def _step(outside: psycopg.Connection[Any], seconds: int) -> None:
    with outside.transaction():
        for statement in STEP.split(";"):
            sql = statement.replace("%(step)s", f"interval '{seconds} seconds'")
            outside.execute(sql.encode())


def _jobs(outside: psycopg.Connection[Any]) -> int:
    row = outside.execute("SELECT count(*) FROM soniq.jobs").fetchone()
    assert row is not None
    return int(row[0])
