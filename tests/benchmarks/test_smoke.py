"""The benchmarks end and print their rows; what the figures are is not tested here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report

# A figure starts up to fourteen workers, one after the other.
pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[2]
ROWS = {
    "enqueue": ["enqueue one by one, sync", "enqueue one by one, async"],
    "bounds": [
        "enqueue, bounded, far from full",
        "enqueue, bounded, full, dropping one of 1,000",
    ],
    "together": [
        "enqueue 20 at once, own pool, worker listening",
        "enqueue 20 at once, own pool, no worker",
        "enqueue 20 at once, callers' transactions, worker listening",
        "enqueue 20 at once, callers' transactions, no worker",
    ],
    "bulk": ["bulk 1,000", "  client CPU each", "stream 20,000, process memory"],
    "drain": [
        "drain 400, async",
        "  worker CPU a job, async",
        "drain 400, async, no extras",
        "drain 400, sync in threads",
        "  writes a job, live jobs",
    ],
    "hooks": [
        "drain 400, sync in threads, one `def` middleware",
        "  worker CPU a job more, sync in threads, one `def` middleware",
        "drain 400, sync in threads, Django's connections",
        "drain 400, async, one `async def` middleware",
    ],
    "processes": ["drain 1,200, --processes 2 against 1", "  runs a job, --processes 2"],
    "pickup": ["pickup, idle worker, p50 of 20", "scheduled job, late p95"],
    "backlog": ["drain 400 with 20,000 queued", "drain 400 with 20,000 scheduled"],
    "queues": [
        "drain 400 from 20 queues, against one",
        "pickup p99, shallow beside deep, against alone",
    ],
    "schedules": [
        "schedule, job made late, p95",
        "look at 200 schedules, against 10",
        "fire 200 that are due at once",
        "drain beside 200 schedules, against none",
    ],
    "held": [
        "held xmin, 1.5 s: rate at the end",
        "  pickup p99 at the end, and at the start",
        "four readers, 1.5 s: rate at the end",
    ],
    "limits": [
        "drain 400, 20 keys of limit 1",
        "drain 400 without limits, beside 2,000 of a blocked key",
        "one job beside 2,000 of another tenant, p99",
    ],
    "memory": ["memory grown in 1.5 s at 1,000 jobs/s", "memory at most, 8 jobs of 1 MiB"],
    "idle": ["idle worker, statements a second", "idle worker, memory"],
    "start": ["soniq --help", "import soniq", "worker ready"],
    "unique": [
        "enqueue unique, against plain",
        "enqueue a duplicate, against plain",
        "bulk 100 unique, against plain",
        "drain 400 beside 40,000 keys, against none",
    ],
}


@pytest.mark.parametrize("figure", ROWS)
def test_a_small_run_ends_and_gives_every_figure(figure: str, server_url: str) -> None:
    ran = run(figure, "--json", url=server_url)
    assert ran.returncode == 0, ran.stderr
    rows = {row["name"]: row for row in json.loads(ran.stdout)}
    assert set(ROWS[figure]) <= set(rows)
    assert all(row["ours"] >= 0 for row in rows.values())
    assert all(row["verdict"] != "-" for row in rows.values() if row["goals"])


def test_people_get_a_table(server_url: str) -> None:
    ran = run("bulk", url=server_url)
    head, columns, rule, row, *_ = ran.stdout.splitlines()
    assert "PostgreSQL" in head
    assert columns.split()[:4] == ["figure", "ours", "ceiling", "share"]
    assert set(rule) == {"-", " "}
    assert row.startswith("bulk 1,000")


def test_a_figure_nobody_measures_is_refused(server_url: str) -> None:
    ran = run("weather", url=server_url)
    assert ran.returncode == 2
    assert "drain" in ran.stderr


def run(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *arguments],
        cwd=ROOT,
        env={**os.environ, "SONIQ_TEST_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


@pytest.mark.parametrize(("unit", "better"), [("jobs/s", (200.0, 100.0)), ("ms", (1.0, 2.0))])
def test_a_ratio_above_one_is_better_than_the_ceiling(
    unit: str, better: tuple[float, float]
) -> None:
    row = report.paired("x", unit, [better], (report.share(2.0),))
    assert row.ratio == 2.0
    assert row.verdict() == "share >= 2: pass"


def test_a_goal_that_is_missed_says_how_far_away_it_is() -> None:
    goals = (report.share(0.8), report.most(50), report.least(30_000), report.times(0.5))
    row = report.paired("x", "jobs/s", [(60.0, 100.0)], goals)
    assert row.verdict() == (
        "share >= 0.8: -0.20; <= 50: x1.20; >= 30,000: x0.00; <= 0.5 x ceiling: x1.20"
    )
    assert not row.reached()


def test_a_goal_that_is_reached_passes() -> None:
    goals = (report.share(0.6), report.most(60), report.least(60), report.times(0.6))
    row = report.paired("x", "jobs/s", [(60.0, 100.0)], goals)
    assert row.verdict().count(": pass") == 4
    assert row.reached()


def test_a_goal_without_its_figure_is_not_reached() -> None:
    row = report.Row("x", "ms", 1.0, goals=(report.share(0.6),))
    assert row.verdict() == "share >= 0.6: not measured"
    assert not row.reached()


def test_the_summary_names_what_is_missed() -> None:
    rows = [
        report.Row("far", "ms", 2.0, goals=(report.most(1),)),
        report.Row("near", "ms", 0.5, goals=(report.most(1),)),
        report.Row("told", "ms", 9.0),
    ]
    assert report.summary(rows) == "1 of 2 rows with a goal reach it; not yet: far"


def test_each_side_goes_first_every_other_time() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return 1.0

    pairs = report.interleave(3, lambda: side("ours"), lambda: side("bare"))
    assert len(pairs) == 3
    assert calls == ["ours", "bare", "bare", "ours", "ours", "bare"]
