"""Unique jobs where two meet: each interleaving is forced by an open transaction or a lock."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from soniq.errors import DuplicateJob, TransientError
from soniq.job.record import JobStatus, NewJob
from soniq.steps import Steps
from soniq.store import endings, jobs, keys, workers
from soniq.store.endings import Told

from .desk import Desk
from .test_keys import WAITING, WORKER, args, count, holders, put, unique_job

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


class Aside:
    """A second connection whose calls run in a thread, so that they can wait for the first."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.thread = ThreadPoolExecutor(1)

    def begin(self, *given: NewJob) -> Future[Any]:
        """Begin to enqueue."""
        return self.thread.submit(put, self.desk, *given)

    def close(self) -> None:
        """Have a call that still waits fail, so that a failed test ends."""
        with suppress(Exception):
            self.desk.connection.cancel()
        self.thread.shutdown()
        self.desk.connection.close()


@pytest.fixture
def aside(desk: Desk) -> Iterator[Aside]:
    made = Aside(desk.another())
    yield made
    made.close()


@pytest.fixture
def third(desk: Desk) -> Iterator[Aside]:
    made = Aside(desk.another())
    yield made
    made.close()


def told(job_id: str, **more: Any) -> list[Told]:
    return [Told(job_id, 1, reason="why", outcome="failed", **more)]


# -- against an enqueue


@pytest.mark.parametrize(
    ("conflict", "outcome"), [("skip", "existing"), ("replace", "replaced"), ("raise", None)]
)
def test_an_enqueue_waits_for_a_slow_commit_of_the_same_key(
    desk: Desk, aside: Aside, conflict: str, outcome: str | None
) -> None:
    desk.sql("BEGIN")
    (first,) = put(desk, unique_job(args={"a": 1}))
    second = aside.begin(unique_job(args={"a": 2}, conflict=conflict))
    desk.until_somebody_waits()
    desk.sql("COMMIT")
    if outcome is None:
        with pytest.raises(DuplicateJob) as refused:
            second.result()
        assert refused.value.job_id == first
    else:
        made = second.result()
        assert (made, made.outcomes) == ([first], [outcome])
    assert args(desk, first) == {"a": 2 if conflict == "replace" else 1}
    assert count(desk) == 1


def test_an_enqueue_takes_the_key_of_one_that_is_rolled_back(desk: Desk, aside: Aside) -> None:
    desk.sql("BEGIN")
    put(desk, unique_job())
    second = aside.begin(unique_job())
    desk.until_somebody_waits()
    desk.sql("ROLLBACK")
    made = second.result()
    assert made.outcomes == ["enqueued"]
    assert holders(desk) == made


def test_a_rolled_back_savepoint_gives_its_key_back(desk: Desk, aside: Aside) -> None:
    desk.sql("BEGIN")
    desk.sql("SAVEPOINT s")
    put(desk, unique_job())
    desk.sql("ROLLBACK TO SAVEPOINT s")
    assert aside.begin(unique_job()).result(20).outcomes == ["enqueued"]
    desk.sql("COMMIT")


def test_of_two_that_take_over_a_key_one_gets_it(desk: Desk, aside: Aside) -> None:
    (dead,) = put(desk, unique_job())
    desk.ask(jobs.delete(dead, "off"))
    desk.sql("BEGIN")
    (first,) = put(desk, unique_job())
    second = aside.begin(unique_job())
    desk.until_somebody_waits()
    desk.sql("COMMIT")
    made = second.result()
    assert (made, made.outcomes) == ([first], ["existing"])
    assert holders(desk) == [first]


def test_a_duplicate_waits_for_nobody_once_its_job_is_committed(desk: Desk, aside: Aside) -> None:
    """Many requests that throttle one key in long transactions would else stand in a row."""
    (first,) = put(desk, unique_job(seconds=3600.0))
    desk.sql("BEGIN")
    assert put(desk, unique_job()) == [first]
    assert put(desk, unique_job("other"), unique_job("third")).outcomes == ["enqueued"] * 2
    assert aside.begin(unique_job()).result(20) == [first]
    desk.sql("COMMIT")


def test_of_many_those_that_are_duplicates_wait_for_nobody(desk: Desk, aside: Aside) -> None:
    """Each bulk locked all of its keys, those of duplicates too, to the end of its transaction."""
    there = put(desk, unique_job("1"), unique_job("2"))
    desk.sql("BEGIN")
    put(desk, unique_job("1"), unique_job("3"), unique_job("2"))
    desk.sql("SELECT FROM {soniq}.keys FOR UPDATE")
    made = aside.begin(unique_job("2"), unique_job("4"), unique_job("1")).result(30)
    assert made.outcomes == ["existing", "enqueued", "existing"]
    assert made[::2] == there[::-1]
    desk.sql("COMMIT")


@pytest.mark.parametrize("conflict", ["skip", "raise"])
def test_many_that_wait_for_a_slow_commit_see_what_it_leaves(
    desk: Desk, aside: Aside, conflict: str
) -> None:
    (dead,) = put(desk, unique_job("0"))
    desk.ask(jobs.delete(dead, "off"))
    desk.sql("BEGIN")
    first = put(desk, unique_job("1"), unique_job("2"))
    given = [unique_job(key, conflict=conflict, seconds=60.0) for key in "2301"]
    made = aside.begin(*given)
    desk.until_somebody_waits(1)
    desk.sql("COMMIT")
    if conflict == "raise":
        with pytest.raises(DuplicateJob, match="Job 0 of the list") as refused:
            made.result(30)
        assert refused.value.job_id == first[1]
        assert [holders(desk, f"k:{key}") for key in "03"] == [[dead], []]
        assert desk.sql("SELECT FROM {soniq}.keys WHERE until IS NOT NULL") == []
        assert count(desk) == 2
    else:
        assert made.result(30).outcomes == ["existing", "enqueued", "enqueued", "existing"]
        assert made.result()[::3] == first[::-1]
        assert holders(desk, "k:0") == [made.result()[2]]


def test_two_replacements_come_one_after_the_other(desk: Desk, aside: Aside) -> None:
    merge = {"conflict": "replace", "merge": (("ids", "append"), ("n", "sum"))}
    (first,) = put(desk, unique_job(args={"ids": [1], "n": 1}))
    desk.sql("BEGIN")
    put(desk, unique_job(args={"ids": [2], "n": 2}, **merge))
    second = aside.begin(unique_job(args={"ids": [3], "n": 3}, **merge))
    desk.until_somebody_waits()
    desk.sql("COMMIT")
    assert second.result().outcomes == ["replaced"]
    assert args(desk, first) == {"ids": [1, 2, 3], "n": 6}


def test_a_function_that_merges_holds_others_up_while_it_thinks(desk: Desk, aside: Aside) -> None:
    def slowly(older: list[int], newer: list[int]) -> list[int]:
        if newer == [2]:
            others.append(aside.begin(unique_job(args={"ids": [3]}, **merge)))
            watch.until_somebody_waits()
        return older + newer

    others: list[Future[Any]] = []
    watch = desk.another()
    merge = {"conflict": "replace", "merge": (("ids", slowly),)}
    (first,) = put(desk, unique_job(args={"ids": [1]}))
    assert put(desk, unique_job(args={"ids": [2]}, **merge)).outcomes == ["replaced"]
    assert others[0].result().outcomes == ["replaced"]
    assert args(desk, first) == {"ids": [1, 2, 3]}
    watch.connection.close()


def test_two_bulks_of_the_same_keys_in_opposite_order_do_not_deadlock(
    desk: Desk, aside: Aside, third: Aside
) -> None:
    """Whoever locks as it goes has one key and wants the other's."""
    desk.sql("BEGIN")
    put(desk, unique_job("1"))
    there = aside.begin(unique_job("1"), unique_job("2"))
    desk.until_somebody_waits(1)
    back = third.begin(unique_job("2"), unique_job("1"))
    desk.until_somebody_waits(2)
    desk.sql("COMMIT")
    first, second = there.result(), back.result()
    assert first == second[::-1]
    assert sorted([*first.outcomes, *second.outcomes]) == ["enqueued", *["existing"] * 3]


def test_in_a_repeatable_read_a_key_that_came_meanwhile_is_an_error_that_may_pass(
    desk: Desk, other: Desk
) -> None:
    desk.sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
    desk.sql("SELECT 1")
    put(other, unique_job())
    with pytest.raises(TransientError, match="could not serialize"):
        put(desk, unique_job())
    desk.sql("ROLLBACK")


# -- against a claim


def test_a_duplicate_does_not_wait_for_a_claim_under_way(desk: Desk, aside: Aside) -> None:
    (first,) = put(desk, unique_job())
    desk.sql("BEGIN")
    desk.claim(WORKER)
    assert aside.begin(unique_job(states=WAITING)).result(20) == [first]
    desk.sql("COMMIT")
    assert put(desk, unique_job()) == [first]
    assert put(desk, unique_job(states=WAITING)).outcomes == ["enqueued"]


@pytest.mark.parametrize(
    ("states", "end", "outcome"),
    [
        (WAITING, "COMMIT", "enqueued"),
        (("scheduled", "queued", "processing"), "COMMIT", "existing"),
        (WAITING, "ROLLBACK", "replaced"),
    ],
)
def test_a_replacement_that_meets_a_claim_does_what_the_claim_leaves_it(
    desk: Desk, aside: Aside, states: tuple[str, ...], end: str, outcome: str
) -> None:
    (first,) = put(desk, unique_job(args={"a": 1}))
    desk.sql("BEGIN")
    (claimed,) = desk.claim(WORKER)
    second = aside.begin(unique_job(args={"a": 2}, states=states, conflict="replace"))
    desk.until_somebody_waits()
    desk.sql(end)
    made = second.result()
    assert made.outcomes == [outcome]
    assert (made == [first]) == (outcome != "enqueued")
    assert claimed.args == '{"a": 1}'
    assert args(desk, first) == {"a": 2 if end == "ROLLBACK" else 1}
    assert args(desk, made[0]) == {"a": 1 if outcome == "existing" else 2}


def test_a_claim_passes_by_a_job_that_is_being_replaced(desk: Desk, other: Desk) -> None:
    (first,) = put(desk, unique_job(args={"a": 1}))
    desk.sql("BEGIN")
    put(desk, unique_job(args={"a": 2}, conflict="replace"))
    assert other.claim(WORKER) == []
    desk.sql("COMMIT")
    (claimed,) = other.claim(WORKER)
    assert (claimed.id, claimed.args) == (first, '{"a": 2}')


# -- against an end


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_until_an_end_is_committed_the_job_has_its_key(desk: Desk, aside: Aside, end: str) -> None:
    (first,) = put(desk, unique_job())
    desk.claim(WORKER)
    desk.sql("BEGIN")
    assert desk.finish(WORKER, first, 1) == [first]
    assert aside.begin(unique_job()).result(20) == [first]
    desk.sql(end)
    outcome = "enqueued" if end == "COMMIT" else "existing"
    assert put(desk, unique_job()).outcomes == [outcome]


@pytest.mark.parametrize("gone", [jobs.delete, jobs.cancel])
def test_a_replacement_that_meets_a_cancel_becomes_a_job(
    desk: Desk, aside: Aside, gone: Any
) -> None:
    (first,) = put(desk, unique_job())
    desk.sql("BEGIN")
    assert desk.ask(gone(first, "off"))
    second = aside.begin(unique_job(args={"a": 2}, conflict="replace"))
    desk.until_somebody_waits()
    desk.sql("COMMIT")
    (new,) = made = second.result()
    assert made.outcomes == ["enqueued"]
    assert (new != first, holders(desk), args(desk, new)) == (True, [new], {"a": 2})


# -- what comes back to wait while its twin waits


def sent_back(way: str, job_id: str) -> Steps[Any]:
    match way:
        case "retry":
            return endings.again(WORKER, told(job_id, delay=60.0)).__iter__()
        case "snooze":
            return endings.later(WORKER, told(job_id, delay=60.0)).__iter__()
        case "release":
            return endings.release(WORKER, told(job_id), "off").__iter__()
        case _:
            return workers.rescue(30, "off").__iter__()


@pytest.mark.parametrize("way", ["retry", "snooze", "release", "rescue"])
@pytest.mark.parametrize("order", ["the twin came before", "the twin comes meanwhile"])
def test_a_job_that_comes_back_beside_its_twin_stays_and_so_does_the_twin(
    desk: Desk, aside: Aside, way: str, order: str
) -> None:
    """Where an index held the key, sending a job back failed for its twin, and so did a rescue
    of everybody's jobs."""
    desk.watch_since_an_hour()
    (first,) = put(desk, unique_job())
    bystander = desk.enqueue()
    desk.claim(WORKER, 2)
    twin = unique_job(states=WAITING)
    if order == "the twin came before":
        (second,) = put(desk, twin)
        sent = desk.ask(sent_back(way, first))
    else:
        desk.sql("BEGIN")
        sent = desk.ask(sent_back(way, first))
        (second,) = aside.begin(twin).result(20)
        desk.sql("COMMIT")
    assert len(sent) == (2 if way == "rescue" else 1)
    states = {each: desk.state(each) for each in (first, second)}
    assert states[second] == "queued"
    assert states[first] == ("scheduled" if way in {"retry", "snooze"} else "queued")
    assert holders(desk) == [first, second]
    assert desk.state(bystander) == ("queued" if way == "rescue" else "processing")
    (again,) = put(desk, twin)
    assert again == second
    desk.ask(jobs.delete(second, "off"))
    assert put(desk, twin) == [first]
    assert put(desk, unique_job(args={"a": 9}, conflict="replace")) == [first]
    assert count(desk) == 2


def test_twins_that_both_wait_are_both_claimed_and_finished(desk: Desk) -> None:
    (first,) = put(desk, unique_job())
    desk.claim(WORKER)
    (second,) = put(desk, unique_job(states=WAITING))
    desk.ask(endings.release(WORKER, told(first), "off"))
    claimed = desk.claim(WORKER, 2)
    assert {job.id for job in claimed} == {first, second}
    done = desk.ask(endings.finish(WORKER, [j.id for j in claimed], [1, 1], [None, None]))
    assert set(done) == {first, second}
    assert desk.ask(jobs.get(first)).status is JobStatus.DONE
    assert put(desk, unique_job()).outcomes == ["enqueued"]


# -- against the pruner


def dead_key(desk: Desk) -> None:
    (dead,) = put(desk, unique_job())
    desk.ask(jobs.delete(dead, "off"))


def test_a_key_that_is_being_taken_over_is_not_pruned(desk: Desk, other: Desk) -> None:
    dead_key(desk)
    desk.sql("BEGIN")
    (new,) = put(desk, unique_job())
    ((_, _, looked, gone),) = other.ask(keys.prune(keys.START))
    assert (looked, gone) == (1, 0)
    desk.sql("COMMIT")
    assert holders(desk) == [new]


def test_a_key_that_was_taken_over_after_the_pruner_looked_is_not_pruned(
    desk: Desk, aside: Aside
) -> None:
    """One statement that looks and deletes would delete it, for what its last holder was."""
    dead_key(desk)
    desk.sql("BEGIN")
    desk.sql("LOCK TABLE {soniq}.keys IN EXCLUSIVE MODE")  # it may look, and not lock rows
    pruning = aside.thread.submit(aside.desk.ask, keys.prune(keys.START))
    desk.until_somebody_waits()
    (new,) = put(desk, unique_job())
    desk.sql("COMMIT")
    ((_, _, looked, gone),) = pruning.result()
    assert (looked, gone) == (1, 0)
    assert put(desk, unique_job()) == [new]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_an_enqueue_that_meets_the_pruner_takes_the_key(desk: Desk, aside: Aside, end: str) -> None:
    dead_key(desk)
    desk.sql("BEGIN")
    ((_, _, _, gone),) = desk.ask(keys.prune(keys.START))
    assert gone == 1
    second = aside.begin(unique_job())
    desk.until_somebody_waits()
    desk.sql(end)
    made = second.result()
    assert made.outcomes == ["enqueued"]
    assert holders(desk) == made
