"""History's partitions: made ahead, filled from the default one, dropped when all is old."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

from soniq.errors import TransientError
from soniq.job.record import JobStatus
from soniq.store import endings, history, jobs
from soniq.store.endings import Told

from .desk import Desk

DAY = 86_400.0


def partitions(desk: Desk) -> list[str]:
    """List history's partitions but the default one."""
    rows = desk.sql(
        """
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = CAST('{soniq}.history' AS regclass) AND c.relname <> 'history_default'
        ORDER BY 1"""
    )
    return [name for (name,) in rows]


def named(day: date) -> str:
    return f"history_{day:%Y%m%d}"


def today(desk: Desk) -> date:
    """The server's, in UTC."""
    found: date = desk.value("SELECT CAST(statement_timestamp() AT TIME ZONE 'UTC' AS date)")
    return found


def finished(desk: Desk, result: str | None = None) -> str:
    """Run a job to its end; answer its id."""
    worker, job_id = desk.worker(), desk.enqueue()
    (job,) = desk.claim(worker)
    desk.finish(worker, job.id, job.attempt, result)
    return job_id


def partition_of(desk: Desk, job_id: str) -> str:
    name: str = desk.value(
        "SELECT CAST(CAST(tableoid AS regclass) AS text) FROM {soniq}.history WHERE id = %s", job_id
    )
    return name.rsplit(".", maxsplit=1)[-1]


def test_the_setup_makes_partitions_ahead(desk: Desk) -> None:
    """The setup may be of yesterday, when the run crosses midnight."""
    made = partitions(desk)
    started = [today(desk) - timedelta(days=n) for n in (0, 1)]
    assert made in [[named(first + timedelta(days=n)) for n in range(4)] for first in started]


def test_a_finished_job_and_its_result_are_found(desk: Desk) -> None:
    job_id = finished(desk, '{"sum": 3}')
    job = desk.ask(jobs.get(job_id))
    assert (job.status, job.result) == (JobStatus.DONE, {"sum": 3})
    assert partition_of(desk, job_id) == named(today(desk))


def test_a_job_finished_without_its_partition_lands_in_the_default_and_is_moved_later(
    desk: Desk,
) -> None:
    desk.sql(f"DROP TABLE {{soniq}}.{named(today(desk))}")
    job_id = finished(desk, "1")
    assert partition_of(desk, job_id) == "history_default"
    assert desk.ask(history.tend(DAY)) == 0
    assert partition_of(desk, job_id) == named(today(desk))
    assert desk.ask(jobs.get(job_id)).result == 1
    assert desk.value("SELECT count(*) FROM {soniq}.history") == 1


def test_a_job_that_finishes_while_its_partition_is_made_is_moved_too(
    desk: Desk, other: Desk
) -> None:
    """Attaching failed for a row that was committed after the move had looked for rows."""
    desk.sql(f"DROP TABLE {{soniq}}.{named(today(desk))}")
    tending: list[Any] = []
    thread = threading.Thread(target=lambda: tending.append(other.ask(history.tend(DAY))))
    with desk.connection.transaction():
        job_id = finished(desk)
        thread.start()
        desk.until_somebody_waits()
    thread.join(20)
    assert tending == [0]
    assert partition_of(desk, job_id) == named(today(desk))


def test_tending_gives_up_soon_when_a_reader_is_in_the_way(desk: Desk, other: Desk) -> None:
    """Everybody who finishes a job would queue up behind it."""
    desk.sql(f"DROP TABLE {{soniq}}.{named(today(desk))}")
    with desk.connection.transaction():
        desk.sql("SELECT count(*) FROM {soniq}.history")
        began = datetime.now(UTC)
        try:
            other.ask(history.tend(DAY))
        except TransientError:
            assert datetime.now(UTC) - began < timedelta(seconds=15)
        else:
            raise AssertionError("it should have given up")
    assert other.ask(history.tend(DAY)) == 0
    assert named(today(desk)) in partitions(desk)
    assert other.value("SHOW lock_timeout") == "0"


def test_partitions_are_dropped_when_their_last_row_is_too_old(desk: Desk) -> None:
    first = today(desk)
    for age in (1, 2, 3, 40):
        day = first - timedelta(days=age)
        desk.sql(
            f"CREATE TABLE IF NOT EXISTS {{soniq}}.{named(day)} PARTITION OF {{soniq}}.history "
            f"FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
        )
    # Two days: what ended at the beginning of the day before yesterday may not be that old yet.
    assert desk.ask(history.tend(2 * DAY)) == 2
    assert partitions(desk)[:2] == [named(first - timedelta(days=n)) for n in (2, 1)]
    assert desk.ask(history.tend(0)) == 2
    assert partitions(desk)[0] == named(first)


def test_tending_and_a_reader_of_history_never_wait_for_each_other(desk: Desk, other: Desk) -> None:
    """It held the default partition and wanted history; a reader held history and wanted that."""
    first = today(desk)
    old = first - timedelta(days=9)
    desk.sql(f"DROP TABLE {{soniq}}.{named(first)}")
    desk.sql(
        f"CREATE TABLE {{soniq}}.{named(old)} PARTITION OF {{soniq}}.history "
        f"FOR VALUES FROM ('{old} 00:00+00') TO ('{old + timedelta(days=1)} 00:00+00')"
    )
    job_id = finished(desk)
    reader = desk.another()
    answers: list[Any] = []

    def ask(one: Desk, steps: Any) -> threading.Thread:
        def run() -> None:
            try:
                answers.append(one.ask(steps))
            except Exception as error:
                answers.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    with desk.connection.transaction():
        # Lets readers pass, and holds up whoever changes history.
        desk.sql("LOCK TABLE {soniq}.history IN SHARE UPDATE EXCLUSIVE MODE")
        threads = [ask(other, history.tend(DAY))]
        desk.until_somebody_waits()
        threads.append(ask(reader, jobs.get(job_id)))
        desk.until_somebody_waits(2)
    for thread in threads:
        thread.join(20)
    reader.connection.close()
    assert 1 in answers, answers
    assert [job.id for job in answers if job != 1] == [job_id]


def test_old_rows_of_the_default_partition_are_deleted(desk: Desk) -> None:
    job_id = finished(desk)
    desk.sql("UPDATE {soniq}.history SET finished_at = finished_at - interval '9 days'")
    assert partition_of(desk, job_id) == "history_default"
    desk.ask(history.tend(10 * DAY))
    assert desk.state(job_id) == "done"
    desk.ask(history.tend(8 * DAY))
    assert desk.state(job_id) is None


def test_ten_at_once_tend_in_peace(desk: Desk) -> None:
    for name in partitions(desk):
        desk.sql(f"DROP TABLE {{soniq}}.{name}")
    desks = [desk.another() for _ in range(10)]
    answers: list[Any] = []
    start = threading.Barrier(10)

    def tend(one: Desk) -> None:
        start.wait()
        try:
            answers.append(one.ask(history.tend(DAY)))
        except Exception as error:
            answers.append(error)
        finally:
            one.connection.close()

    threads = [threading.Thread(target=tend, args=(one,)) for one in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [0] * 10
    assert len(partitions(desk)) == 4


def test_old_dead_letters_are_pruned_and_young_ones_kept(desk: Desk) -> None:
    worker = desk.worker()
    ids = [desk.enqueue() for _ in range(2)]
    told = [
        Told(job.id, job.attempt, reason="r", outcome="failed") for job in desk.claim(worker, 2)
    ]
    desk.ask(endings.bury(worker, told))
    desk.sql(
        "UPDATE {soniq}.dead_letters SET died_at = died_at - interval '2 days' WHERE id = %s",
        ids[0],
    )
    desk.ask(history.prune_dead_letters(DAY))
    assert [desk.state(job_id) for job_id in ids] == [None, "dead_letter"]
