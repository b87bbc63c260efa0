"""Jobs of silent workers go to others; jobs of live ones never do."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from soniq.job.record import JobStatus
from soniq.store import dead_letters, endings, jobs, workers
from soniq.store.endings import Told

from .desk import Desk

TIMEOUT = 30.0


def watched(desk: Desk) -> None:
    """Have the watch begun long enough ago."""
    desk.watch_since_an_hour()


def silenced(desk: Desk, worker: str) -> None:
    """Have the worker last seen an hour ago."""
    desk.sql(
        "UPDATE {soniq}.workers SET seen_at = seen_at - interval '1 hour' WHERE id = %s", worker
    )


@pytest.fixture
def watch(desk: Desk) -> Desk:
    watched(desk)
    return desk


def test_a_live_workers_jobs_are_left_alone(watch: Desk) -> None:
    watch.enqueue()
    watch.claim(watch.worker())
    before = watch.everything()
    assert watch.ask(workers.rescue(TIMEOUT, "off")) == []
    assert watch.everything() == before


@pytest.mark.parametrize("gone", ["silent", "signed out"])
def test_a_lost_workers_job_is_queued_again_and_says_why(watch: Desk, gone: str) -> None:
    job_id, lost = watch.enqueue(), watch.worker()
    watch.claim(lost)
    silenced(watch, lost) if gone == "silent" else watch.ask(workers.sign_out(lost))
    (rescued,) = watch.ask(workers.rescue(TIMEOUT, "off"))
    assert (rescued.id, rescued.fate, rescued.worker_id) == (job_id, "queued", lost)
    assert (rescued.task, rescued.queue, rescued.attempt) == ("task", "default", 1)
    job = watch.ask(jobs.get(job_id))
    assert (job.status, job.attempt, job.worker_id) == (JobStatus.QUEUED, 1, None)
    (attempt,) = job.attempts
    assert (attempt.attempt, attempt.outcome, attempt.worker_id) == (1, "worker_lost", lost)
    assert lost in str(attempt.error)
    assert attempt.started_at is not None
    assert attempt.ended_at is not None


def test_a_job_whose_worker_dies_at_its_last_attempt_is_a_dead_letter(watch: Desk) -> None:
    job_id, lost = watch.enqueue(max_attempts=1), watch.worker()
    watch.claim(lost)
    silenced(watch, lost)
    (rescued,) = watch.ask(workers.rescue(TIMEOUT, "off"))
    assert rescued.fate == "dead_letter"
    job = watch.ask(jobs.get(job_id))
    assert job.status is JobStatus.DEAD_LETTER
    assert "attempts used" in str(job.reason)
    assert [a.outcome for a in job.attempts] == ["worker_lost"]


def test_a_job_that_was_to_be_cancelled_ends_cancelled_when_its_worker_dies(watch: Desk) -> None:
    job_id, lost = watch.enqueue(), watch.worker()
    watch.claim(lost)
    watch.ask(jobs.cancel(job_id, "always"))
    silenced(watch, lost)
    (rescued,) = watch.ask(workers.rescue(TIMEOUT, "off"))
    assert rescued.fate == "cancelled"
    assert watch.state(job_id) == "cancelled"


def test_one_rescue_decides_every_row_by_itself(watch: Desk) -> None:
    lost, alive = watch.worker(), watch.worker()
    again, last, cancelled = watch.enqueue(), watch.enqueue(max_attempts=1), watch.enqueue()
    watch.claim(lost, 3)
    kept = watch.enqueue()
    watch.claim(alive)
    watch.ask(jobs.cancel(cancelled, "always"))
    silenced(watch, lost)
    rescued = watch.ask(workers.rescue(TIMEOUT, "off"))
    assert {each.id: each.fate for each in rescued} == {
        again: "queued",
        last: "dead_letter",
        cancelled: "cancelled",
    }
    assert watch.state(kept) == "processing"


def test_a_rescued_worker_changes_nothing_any_more(watch: Desk) -> None:
    watch.enqueue()
    lost = watch.worker()
    (job,) = watch.claim(lost)
    silenced(watch, lost)
    watch.ask(workers.rescue(TIMEOUT, "off"))
    before = watch.everything()
    assert watch.finish(lost, job.id, job.attempt) == []
    assert watch.everything() == before


def test_after_a_crash_of_the_server_nobody_is_robbed_before_everybody_could_report(
    watch: Desk,
) -> None:
    """A crash empties both unlogged tables: who is alive needs time to say so."""
    watch.enqueue()
    watch.claim(watch.worker())
    watch.sql("TRUNCATE {soniq}.workers, {soniq}.watch")
    assert watch.ask(workers.rescue(TIMEOUT, "off")) == []
    # A second look does not start the time anew, nor end it.
    assert watch.ask(workers.rescue(TIMEOUT, "off")) == []
    watch.sql("UPDATE {soniq}.watch SET since = since - interval '29 seconds'")
    assert watch.ask(workers.rescue(TIMEOUT, "off")) == []
    watch.sql("UPDATE {soniq}.watch SET since = since - interval '2 seconds'")
    assert len(watch.ask(workers.rescue(TIMEOUT, "off"))) == 1


def test_a_job_that_changed_hands_after_the_rescues_snapshot_is_left_alone(
    watch: Desk, other: Desk
) -> None:
    """The row lock reads the newest version, but the look for a live worker does not.

    So a job given back by its lost worker and claimed by a live one, between the snapshot of a
    rescue and its lock, was taken from the live one. A view in the place of `workers` holds the
    rescue at that very point.
    """
    job_id, lost, alive = watch.enqueue(), watch.worker(), watch.worker()
    (job,) = watch.claim(lost)
    silenced(watch, lost)
    watch.sql("ALTER TABLE {soniq}.workers RENAME TO workers_table")
    watch.sql(
        "CREATE FUNCTION {soniq}.held_up() RETURNS boolean LANGUAGE plpgsql VOLATILE AS "
        "$$ BEGIN PERFORM pg_advisory_lock(1); PERFORM pg_advisory_unlock(1); RETURN true; END $$"
    )
    watch.sql(
        "CREATE VIEW {soniq}.workers AS SELECT * FROM {soniq}.workers_table WHERE {soniq}.held_up()"
    )
    watch.sql("SELECT pg_advisory_lock(1)")
    rescued: list[Any] = []
    rescue = threading.Thread(
        target=lambda: rescued.extend(other.ask(workers.rescue(TIMEOUT, "off")))
    )
    rescue.start()
    watch.until_somebody_waits()
    watch.ask(endings.release(lost, [Told(job.id, job.attempt)], "off"))
    watch.claim(alive)
    watch.sql("SELECT pg_advisory_unlock(1)")
    rescue.join(10)
    assert rescued == []
    found = watch.ask(jobs.get(job_id))
    assert (found.status, found.worker_id) == (JobStatus.PROCESSING, alive)


def test_two_rescues_at_once_rescue_each_job_once(watch: Desk, other: Desk) -> None:
    """The second skips the rows the first has locked and not yet committed."""
    lost = watch.worker()
    for _ in range(3):
        watch.enqueue()
    watch.claim(lost, 3)
    silenced(watch, lost)
    with watch.connection.transaction():
        assert len(watch.ask(workers.rescue(TIMEOUT, "off"))) == 3
        assert other.ask(workers.rescue(TIMEOUT, "off")) == []
    assert other.ask(workers.rescue(TIMEOUT, "off")) == []


def test_forget_silent_keeps_those_who_report(watch: Desk) -> None:
    lost, alive = watch.worker(), watch.worker()
    silenced(watch, lost)
    watch.ask(workers.forget_silent(TIMEOUT))
    assert watch.sql("SELECT CAST(id AS text) FROM {soniq}.workers") == [(alive,)]


def test_a_beat_says_whether_the_worker_was_unknown(watch: Desk) -> None:
    sign = workers.Sign("9b2ac6a6-2c36-4a41-9d8f-0d9d1f6d6a10", "w", (), (), 1, 0, "r", False, "0")
    assert watch.ask(workers.beat(sign)) == [True]
    assert watch.ask(workers.beat(sign)) == [False]
    watch.sql("TRUNCATE {soniq}.workers")
    assert watch.ask(workers.beat(sign)) == [True]


def test_a_second_death_under_one_id_replaces_the_first_and_stops_no_rescue(watch: Desk) -> None:
    """soniq.enqueue() takes an id; a dead letter that had it made every rescue fail for good."""
    lost, twice = watch.worker(), watch.enqueue(max_attempts=1)
    (first,) = watch.claim(lost)
    told = Told(first.id, first.attempt, reason="the first time", outcome="failed")
    watch.ask(endings.bury(lost, [told]))
    watch.ask(dead_letters.replay(twice, "off"))
    watch.sql("DELETE FROM {soniq}.jobs")
    again = "SELECT {soniq}.enqueue('task', '{\"n\": 2}', id => %s, max_retries => 0)"
    watch.sql(again, twice)
    other = watch.enqueue()
    watch.claim(lost, 2)
    silenced(watch, lost)
    rescued = watch.ask(workers.rescue(TIMEOUT, "off"))
    assert {job.id: job.fate for job in rescued} == {twice: "dead_letter", other: "queued"}
    letter = watch.ask(dead_letters.get(twice))
    assert letter.job.args == {"n": 2}
    assert "attempts used" in str(letter.reason)
    assert (letter.replayed_at, letter.replayed_as) == (None, None)


def test_a_job_may_be_buried_where_another_of_its_id_lies(desk: Desk) -> None:
    """The ending was refused, and the job stayed with its worker until that stopped."""
    worker, job_id = desk.worker(), desk.enqueue()
    for number in (1, 2):
        (job,) = desk.claim(worker)
        told = Told(job.id, job.attempt, reason=f"death {number}", outcome="failed")
        assert desk.ask(endings.bury(worker, [told])) == [job_id]
        desk.sql("SELECT {soniq}.enqueue('task', id => %s)", job_id)
    assert desk.ask(dead_letters.get(job_id)).reason == "death 2"
