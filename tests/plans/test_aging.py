"""Jobs that wait long gain priority, once for each step, and only where a queue asks for it."""

from __future__ import annotations

import pytest

from soniq.store import aging

from .desk import Desk

WAITED = """
    UPDATE {soniq}.jobs SET scheduled_at = scheduled_at - make_interval(secs => %s)
    WHERE id = CAST(%s AS uuid)"""


def waits(desk: Desk, priority: int, seconds: float, queue: str = "q") -> str:
    job_id = desk.enqueue(queue=queue, priority=priority)
    desk.sql(WAITED, seconds, job_id)
    return job_id


def priority(desk: Desk, job_id: str) -> int:
    return int(desk.value("SELECT priority FROM {soniq}.jobs WHERE id = CAST(%s AS uuid)", job_id))


def age(desk: Desk, seconds: float = 60.0) -> list[str]:
    gained: list[str] = desk.ask(aging.age("q", seconds))
    return gained


def test_a_step_is_gained_for_each_time_waited_and_only_once(desk: Desk) -> None:
    first = waits(desk, 100, 0)
    young, old = waits(desk, 110, 59), waits(desk, 110, 630)
    other = waits(desk, 110, 630, queue="other")
    assert age(desk) == [old]
    assert [priority(desk, each) for each in (first, young, old, other)] == [100, 110, 100, 110]
    assert age(desk) == []
    desk.sql(WAITED, 60, old)
    assert age(desk) == []
    waits(desk, 50, 0)
    assert age(desk) == [old]
    assert priority(desk, old) == 99


def test_it_then_comes_before_newer_ones_of_the_priority_it_reached(desk: Desk) -> None:
    newer, old = waits(desk, 100, 0), waits(desk, 105, 300)
    assert age(desk) == [old]
    assert [job.id for job in desk.claim(desk.worker(), 1, "q")] == [old]
    assert desk.state(newer) == "queued"


def test_a_queue_of_one_priority_is_not_written_to(desk: Desk) -> None:
    for _ in range(3):
        waits(desk, 100, 10_000)
    assert age(desk) == []


def test_priority_ends_at_one(desk: Desk) -> None:
    waits(desk, 1, 0)
    old = waits(desk, 1000, 1_000_000)
    assert age(desk, 1.0) == [old]
    assert priority(desk, old) == 1
    assert age(desk, 1.0) == []


def test_jobs_that_others_hold_and_jobs_that_run_are_passed_over(desk: Desk, other: Desk) -> None:
    waits(desk, 100, 0)
    held, free = waits(desk, 110, 600), waits(desk, 120, 600)
    with other.connection.transaction():
        other.sql("SELECT id FROM {soniq}.jobs WHERE id = CAST(%s AS uuid) FOR UPDATE", held)
        assert age(desk) == [free]
    assert age(desk) == [held]


def test_only_queues_that_ask_are_listed(desk: Desk) -> None:
    desk.sql("INSERT INTO {soniq}.queues (name, aging_seconds) VALUES ('a', NULL), ('b', 2.5)")
    assert desk.ask(aging.queues()) == [("b", 2.5)]


def test_it_finds_its_jobs_by_the_index_of_the_claims(desk: Desk) -> None:
    desk.sql(
        """INSERT INTO {soniq}.jobs (id, task, queue, priority)
           SELECT gen_random_uuid(), 'task', 'deep', 100 + n % 3 FROM generate_series(1, 20000) n"""
    )
    desk.sql("ANALYZE {soniq}.jobs")
    old = [waits(desk, 100, 0), waits(desk, 110, 600)]
    from soniq.db.render import render

    sql = render(aging.AGE, desk.schema)
    rows = desk.connection.execute(
        f"EXPLAIN (COSTS OFF) {sql}".encode(), {"queue": "q", "seconds": 60.0}
    ).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan" not in plan, plan
    assert age(desk) == old[1:]
    assert pytest.approx(100) == priority(desk, old[1])
