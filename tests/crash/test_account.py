"""The account finds what it is for: one loss, double or stale completion among good jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.chaos.account import Account, Record, balance, unproved
from benchmarks.chaos.ledger import read

A, B = "worker-a", "worker-b"
PIDS = {A: 1, B: 2}


def note(what: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"what": what, "at": at, "pid": 0, **fields}


def ran(worker: str, attempt: int, began: float, how: str | None = "end") -> list[dict[str, Any]]:
    about = {"key": "a1", "job": "id", "attempt": attempt, "worker": worker}
    lines = [note("begin", began, **about) | {"pid": PIDS[worker]}]
    return lines + ([note(how, began + 1, **about)] if how else [])


def fault(kind: str, at: float, worker: str) -> dict[str, Any]:
    return note("fault", at, kind=kind, hit=PIDS[worker])


ACK = note("ack", 0, key="a1", job="id")
CREW = [note("worker", 0, worker=name) | {"pid": pid} for name, pid in PIDS.items()]
LOST = {"attempt": 1, "outcome": "worker_lost", "worker_id": A}
FAILED = {"attempt": 1, "outcome": "failed", "worker_id": A}
ONCE = Record("a1", "id", "note", "done", 1, [], A, [1, 1])
TWICE = Record("a1", "id", "note", "done", 2, [LOST], B, [2, 2])
KILLED = [ACK, *ran(A, 1, 1, None), fault("killed", 1.5, A), *ran(B, 2, 5)]


def taken(lines: list[dict[str, Any]], *records: Record, orders: tuple[str, ...] = ()) -> Account:
    return balance(read([*CREW, *lines]), records, orders)


def test_a_job_that_ran_once_balances() -> None:
    account = taken([ACK, *ran(A, 1, 1)], ONCE)
    assert (account.problems, account.runs, account.repeated) == ([], 1, {})


def test_a_run_after_a_kill_balances_and_is_counted_with_its_reason() -> None:
    account = taken(KILLED, TWICE)
    assert account.problems == []
    assert (account.repeated, account.spent) == ({"killed": 1}, {"worker_lost": 1})


def test_a_run_may_begin_while_its_process_is_being_killed() -> None:
    """`kill` failed so on a busy machine: 14 ms lay between its note and the signal."""
    killed = fault("killed", 1.5, A) | {"since": 0.9}
    lines = [ACK, *ran(A, 1, 1, None), killed, *ran(B, 2, 5)]
    assert taken(lines, TWICE).problems == []
    assert len(taken([*lines[:-3], killed | {"at": 0.95}, *lines[-2:]], TWICE).problems) == 1


def test_an_error_that_a_producer_got_allows_for_one_job_or_none() -> None:
    unknown = note("unknown", 0, key="a1", error="lost")
    assert taken([unknown]).problems == []
    assert taken([unknown, *ran(A, 1, 1)], ONCE).problems == []
    assert taken([unknown, *ran(A, 1, 1)], ONCE, ONCE).problems == ["a1: is there 2 times"]


def test_a_handed_back_run_must_not_have_spent_an_attempt() -> None:
    lines = [ACK, *ran(A, 1, 1, "cut"), fault("stopped", 0.5, A), *ran(B, 1, 5)]
    assert taken(lines, replace(ONCE, worker=B, result=[1, 2])).problems == []
    assert len(taken(lines, replace(TWICE, result=[1, 2], attempt=1)).problems) == 2


def test_what_a_worker_held_ready_while_it_was_frozen_may_begin_just_after() -> None:
    lines = [ACK, fault("frozen", 1, A), fault("thawed", 5, A), *ran(A, 1, 5.5), *ran(B, 2, 4)]
    assert taken(lines, TWICE).problems == []
    late = [ACK, fault("frozen", 1, A), fault("thawed", 5, A), *ran(A, 1, 9), *ran(B, 2, 4)]
    assert len(taken(late, TWICE).problems) == 1


@pytest.mark.parametrize("how", ["fail", None])
def test_an_effect_that_was_committed_ends_its_job_whatever_its_handler_came_to(how: Any) -> None:
    effect = replace(ONCE, task="note_effect", result=None, effects=1)
    assert taken([ACK, *ran(A, 1, 1, how)], effect).problems == []


PROBLEMS: dict[str, tuple[list[dict[str, Any]], list[Record], str]] = {
    "lost": ([ACK], [], "lost"),
    "never enqueued": (ran(A, 1, 1), [ONCE], "nobody enqueued"),
    "another id": ([ACK, *ran(A, 1, 1)], [replace(ONCE, job="other")], "not the one"),
    "not ended": ([ACK], [replace(ONCE, state="queued")], "still queued"),
    "done without a run": ([ACK], [ONCE], "never ran"),
    "done before its end": ([ACK, *ran(A, 1, 1, None)], [ONCE], "come to its end"),
    "run again without a fault": (
        [ACK, *ran(A, 1, 1), *ran(B, 2, 5)],
        [TWICE],
        "without a reason",
    ),
    "killed before it began": (
        [ACK, fault("killed", 0.5, A), *ran(A, 1, 1), *ran(B, 2, 5)],
        [TWICE],
        "without a reason",
    ),
    "killed long after it ended": (
        [ACK, *ran(A, 1, 1), fault("killed", 60, A), *ran(B, 2, 70)],
        [TWICE],
        "without a reason",
    ),
    "spent on a worker that nobody hurt": (
        [ACK, *ran(B, 2, 5)],
        [TWICE],
        "nobody hurt",
    ),
    "a kill that spent nothing": (
        [ACK, *ran(A, 1, 1, None), fault("killed", 1.5, A), *ran(B, 1, 5)],
        [replace(TWICE, attempt=1, attempts=[], result=[1, 2])],
        "its history says None",
    ),
    "an attempt missing from the history": (KILLED, [replace(TWICE, attempts=[])], "say []"),
    "a failure that no handler had": (
        KILLED,
        [replace(TWICE, attempts=[FAILED | {"worker_id": B}])],
        "its handler did not",
    ),
    "the result of a stale attempt": (KILLED, [replace(TWICE, result=[1, 1])], "with the result"),
    "done by a stale attempt": (
        [ACK, *ran(A, 1, 1), fault("frozen", 1.5, A), *ran(B, 2, 5)],
        [ONCE],
        "after attempt 2 had begun",
    ),
    "given up though its task is made to be done": (
        [ACK, *ran(A, 1, 1, "fail")],
        [replace(ONCE, state="dead_letter", attempts=[FAILED], result=None)],
        "is dead_letter",
    ),
    "cancelled by nobody": ([ACK], [replace(ONCE, state="cancelled", attempt=0)], "is cancelled"),
    "an effect that came twice": (
        [ACK, *ran(A, 1, 1)],
        [replace(ONCE, task="note_effect", result=None, effects=2)],
        "2 effects",
    ),
    "a job without its order": (
        [ACK | {"key": "t1"}, *(line | {"key": "t1"} for line in ran(A, 1, 1))],
        [replace(ONCE, key="t1")],
        "0 orders",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_does_not_balance_is_found(name: str) -> None:
    lines, records, said = PROBLEMS[name]
    problems = taken(lines, *records).problems
    assert any(said in problem for problem in problems), problems


def test_a_balance_of_nothing_proves_nothing() -> None:
    nothing = taken([])
    assert nothing.balanced
    assert unproved(nothing, 1, ["killed"]) == [
        "the fault never happened: killed",
        "0 of 1 jobs were acknowledged",
        "no job is done",
    ]
    assert unproved(taken(KILLED, TWICE), 1, ["killed"]) == []


def test_an_order_without_its_job_is_found() -> None:
    account = taken([ACK, *ran(A, 1, 1)], ONCE, orders=("t7",))
    assert account.problems == ["t7: ordered, without its job"]
