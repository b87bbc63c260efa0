"""A bound on a queue holds against everybody at once, and nobody waits for room without need."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest

from .desk import Desk

BOUND = """
    INSERT INTO {soniq}.queues (name, max_depth, on_full) VALUES ('q', %s, %s)
    ON CONFLICT (name) DO UPDATE SET max_depth = excluded.max_depth, on_full = excluded.on_full,
        changed_at = clock_timestamp()"""
ADMIT = "SELECT {soniq}.admit('q', %s)"
STORE = """
    INSERT INTO {soniq}.jobs (id, task, queue)
    SELECT gen_random_uuid(), 'task', 'q' FROM generate_series(1, %s)"""
DEPTH = "SELECT count(*) FROM {soniq}.jobs WHERE queue = 'q' AND state <> 'processing'"


def bound(desk: Desk, most: int, on_full: str = "raise") -> None:
    desk.sql(BOUND, most, on_full)


def put(desk: Desk, number: int = 1) -> str | None:
    """Enqueue so many, in a transaction or within the one that is open."""
    with desk.connection.transaction():
        refused: str | None = desk.value(ADMIT, number)
        if refused is None:
            desk.sql(STORE, number)
    return refused


def test_a_queue_without_a_bound_takes_anything_and_leaves_no_trace(desk: Desk) -> None:
    desk.sql("INSERT INTO {soniq}.queues (name) VALUES ('q')")
    assert put(desk, 100) is None
    assert desk.sql("SELECT slice FROM {soniq}.room") == []


def test_a_bound_is_reached_and_not_passed(desk: Desk) -> None:
    bound(desk, 50)
    assert [put(desk) for _ in range(51)] == [None] * 50 + ["raise"]
    desk.sql("DELETE FROM {soniq}.jobs WHERE id = (SELECT id FROM {soniq}.jobs LIMIT 1)")
    assert [put(desk), put(desk)] == [None, "raise"]
    assert put(desk, 51) == "never"


def test_jobs_that_wait_for_their_moment_count_and_those_that_run_do_not(desk: Desk) -> None:
    bound(desk, 2)
    desk.enqueue(queue="q", due=60.0)
    desk.enqueue(queue="q")
    desk.enqueue(queue="other")
    assert put(desk) == "raise"
    desk.claim(desk.worker(), queue="q")
    assert put(desk) is None


def test_what_is_said_anew_is_counted_anew(desk: Desk) -> None:
    bound(desk, 10)
    assert put(desk) is None
    bound(desk, 2)
    assert [put(desk), put(desk)] == [None, "raise"]
    bound(desk, 3, "wait")
    assert [put(desk), put(desk)] == [None, "wait"]


def test_room_taken_by_a_transaction_comes_back_with_its_rollback(desk: Desk, other: Desk) -> None:
    bound(desk, 32)
    assert put(desk) is None
    with other.connection.transaction(force_rollback=True):
        assert put(other, 2) is None
    assert [put(desk, 31), put(desk)] == [None, "raise"]


def test_who_enqueues_does_not_wait_for_an_open_transaction_that_did(
    desk: Desk, other: Desk
) -> None:
    """With one lock for the queue it would wait for as long as that transaction lasts."""
    bound(desk, 100)
    assert put(desk) is None
    other.sql("SET lock_timeout = '10s'")
    with desk.connection.transaction():
        assert put(desk) is None
        assert [put(other) for _ in range(90)] == [None] * 90
        assert not desk.somebody_waits()


def test_room_that_an_open_transaction_may_take_is_not_given_to_others(
    desk: Desk, other: Desk
) -> None:
    bound(desk, 32)
    assert put(desk, 20) is None
    with desk.connection.transaction():
        assert put(desk) is None
        taken = 0
        while put(other) is None:
            taken += 1
        assert taken <= 11
    while put(other) is None:
        taken += 1
    assert taken == 11
    assert desk.value(DEPTH) == 32


def test_who_finds_no_room_waits_for_whoever_counts_and_then_sees_what_is_left(
    desk: Desk, other: Desk
) -> None:
    bound(desk, 2)
    answers: list[Any] = []
    with desk.connection.transaction():
        assert put(desk) is None
        waiter = threading.Thread(target=lambda: answers.extend([put(other), put(other)]))
        waiter.start()
        desk_two = desk.another()
        desk_two.until_somebody_waits()
        desk_two.connection.close()
    waiter.join(30)
    assert answers == [None, "raise"]


def test_a_transaction_that_was_refused_and_goes_on_is_in_nobodys_way(
    desk: Desk, other: Desk
) -> None:
    """It had counted, and kept the lock of those who count until its end."""
    bound(desk, 2)
    job_id = desk.enqueue(queue="q")
    other.sql("SET lock_timeout = '10s'")
    with desk.connection.transaction():
        assert put(desk, 2) == "raise"
        other.sql("DELETE FROM {soniq}.jobs WHERE id = CAST(%s AS uuid)", job_id)
        assert [put(other, 2), put(other)] == [None, "raise"]


def test_more_open_transactions_than_slices_are_let_in_exactly(desk: Desk) -> None:
    bound(desk, 40)
    assert put(desk) is None
    many = [desk.another() for _ in range(18)]
    try:
        for each in many:
            each.sql("SET lock_timeout = '10s'")
            each.sql("BEGIN")
            if put(each) is not None:
                each.sql("ROLLBACK")
        assert desk.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") <= 1
    finally:
        for each in many:
            each.connection.close()
    while put(desk) is None:
        pass
    assert desk.value(DEPTH) == 40


def test_many_at_once_fill_a_queue_exactly(desk: Desk) -> None:
    """Some roll back, some take several; in the end it is full, and never was it fuller."""
    bound(desk, 60)
    answers: list[str | None] = []

    def fill(seed: int) -> None:
        mine, chance = desk.another(), random.Random(seed)
        try:
            refused = 0
            while refused < 3:
                undo = chance.random() < 0.3
                with mine.connection.transaction(force_rollback=undo):
                    answer = put(mine, chance.choice((1, 1, 2)))
                    assert mine.value(DEPTH) <= 60
                answers.append(answer)
                refused += answer is not None
        finally:
            mine.connection.close()

    fillers = [threading.Thread(target=fill, args=(seed,)) for seed in range(6)]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join(60)
    assert answers.count("raise") == 18
    while put(desk) is None:
        pass
    assert desk.value(DEPTH) == 60


def test_the_oldest_make_room_and_are_found_in_history(desk: Desk) -> None:
    bound(desk, 3, "drop_oldest")
    old = [desk.enqueue(queue="q", priority=9), desk.enqueue(queue="q", due=60.0)]
    desk.enqueue(queue="other")
    assert [put(desk, 2), put(desk)] == [None, None]
    assert desk.value(DEPTH) == 3
    dropped = desk.sql("SELECT CAST(id AS text), state, reason FROM {soniq}.history ORDER BY id")
    assert dropped == [(job_id, "cancelled", "dropped: its queue was full") for job_id in old]
    assert put(desk, 4) == "never"


def test_a_job_that_somebody_holds_is_not_waited_for_to_be_dropped(desk: Desk, other: Desk) -> None:
    bound(desk, 2, "drop_oldest")
    first, second = desk.enqueue(queue="q"), desk.enqueue(queue="q")
    with other.connection.transaction():
        other.sql("SELECT id FROM {soniq}.jobs WHERE id = CAST(%s AS uuid) FOR UPDATE", first)
        assert put(desk) is None
    assert (desk.state(first), desk.state(second)) == ("queued", "cancelled")


def test_a_queue_that_is_far_too_deep_is_brought_down_little_by_little(desk: Desk) -> None:
    desk.sql(STORE, 5000)
    bound(desk, 10, "drop_oldest")
    for _ in range(6):
        assert put(desk) is None
    assert desk.value(DEPTH) == 10


def test_room_that_a_crash_of_the_server_forgot_is_counted_anew(desk: Desk) -> None:
    bound(desk, 4)
    assert put(desk, 2) is None
    desk.sql("TRUNCATE {soniq}.room")
    assert [put(desk, 2), put(desk)] == [None, "raise"]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_stricter_isolation_is_served_too(desk: Desk, level: str) -> None:
    bound(desk, 4)
    with desk.connection.transaction():
        desk.sql(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert put(desk, 4) is None
    with pytest.raises(psycopg.errors.CheckViolation):
        desk.sql("UPDATE {soniq}.room SET free = -1")
    assert put(desk) == "raise"


def test_the_sql_function_is_held_to_the_bound(desk: Desk) -> None:
    ask = "SELECT {soniq}.enqueue('task', queue => 'q')"
    keyed = "SELECT {soniq}.enqueue('task', queue => 'q', dedup_key => %s)"
    bound(desk, 2, "wait")
    desk.sql(ask)
    desk.sql(keyed, "a")
    for full in (lambda: desk.sql(ask), lambda: desk.sql(keyed, "b")):
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="queue 'q' is full"):
            full()
    bound(desk, 2, "drop_oldest")
    desk.sql(ask)
    assert desk.value(DEPTH) == 2


def test_the_look_for_room_has_an_index_for_each_part(desk: Desk) -> None:
    """Beside 50,000 jobs of others, behind gates or not, a small queue is counted at once."""
    desk.sql(
        """INSERT INTO {soniq}.jobs (id, task, queue, gate)
           SELECT gen_random_uuid(), 'task', 'deep', CASE WHEN n % 2 = 0 THEN 't' END
           FROM generate_series(1, 50000) n"""
    )
    desk.sql("ANALYZE {soniq}.jobs")
    bound(desk, 100)
    scans = "SELECT pg_stat_get_xact_numscans(CAST('{soniq}.jobs' AS regclass))"
    read = "SELECT pg_stat_get_xact_tuples_returned(CAST('{soniq}.jobs' AS regclass))"
    with desk.connection.transaction():
        assert put(desk) is None
        assert desk.value(scans) == 0, "the table was read from its beginning to its end"
        assert desk.value(read) == 0
