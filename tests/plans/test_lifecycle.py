"""The SQL against the only table of transitions, `policy/lifecycle.py`."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from soniq.errors import InvalidTransition, JobNotFound
from soniq.job.record import Claimed, JobStatus
from soniq.policy.lifecycle import TRANSITIONS
from soniq.steps import Steps
from soniq.store import claims, dead_letters, endings, jobs, workers
from soniq.store.endings import Told

from .desk import Desk

S = JobStatus
WORKER = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"


def _told(job_id: str, attempt: int = 1, **more: Any) -> list[Told]:
    return [Told(job_id, attempt, reason="why", outcome="failed", error="E: e", **more)]


def _put(desk: Desk, state: JobStatus, *, attempts: int = 4) -> str:
    """Make a job and bring it to a state; one that is scheduled is due."""
    job_id = desk.enqueue(max_attempts=attempts)
    if state is S.SCHEDULED:
        desk.sql(
            "UPDATE {soniq}.jobs SET state = 'scheduled', "
            "scheduled_at = statement_timestamp() - interval '1 second'"
        )
    if state in {S.SCHEDULED, S.QUEUED}:
        return job_id
    desk.claim(WORKER)
    if state is S.DONE:
        desk.finish(WORKER, job_id, 1)
    elif state is S.CANCELLED:
        desk.ask(endings.drop(WORKER, _told(job_id)))
    elif state is S.DEAD_LETTER:
        desk.ask(endings.bury(WORKER, _told(job_id)))
    return job_id


def _rescue(desk: Desk, job_id: str, *, cancel: bool = False) -> None:
    if cancel:
        desk.ask(jobs.cancel(job_id, "always"))
    desk.watch_since_an_hour()
    desk.ask(workers.rescue(30, "off"))


def _retry_now(desk: Desk, job_id: str) -> None:
    with suppress(InvalidTransition):
        desk.ask(jobs.retry(job_id, "off"))


EVENTS: dict[str, Callable[[Desk, str], Any]] = {
    "due": lambda desk, _: desk.ask(claims.stage("off")),
    "claim": lambda desk, _: desk.claim(WORKER),
    "cancel": lambda desk, job_id: desk.ask(jobs.cancel(job_id, "always")),
    "reschedule": lambda desk, job_id: desk.ask(jobs.reschedule(job_id, 60.0, "off")),
    "retry_now": _retry_now,
    "finish": lambda desk, job_id: desk.finish(WORKER, job_id, 1),
    "drop": lambda desk, job_id: desk.ask(endings.drop(WORKER, _told(job_id))),
    "bury": lambda desk, job_id: desk.ask(endings.bury(WORKER, _told(job_id))),
    "again": lambda desk, job_id: desk.ask(endings.again(WORKER, _told(job_id, delay=9.0))),
    "snooze": lambda desk, job_id: desk.ask(endings.later(WORKER, _told(job_id, delay=9.0))),
    "release": lambda desk, job_id: desk.ask(endings.release(WORKER, _told(job_id), "off")),
    "rescue": _rescue,
    "rescue_last": _rescue,
    "rescue_cancelled": lambda desk, job_id: _rescue(desk, job_id, cancel=True),
}

# `cancel` comes first in this event, and a job that waits leaves with it.
FOLLOWS = {(S.SCHEDULED, "rescue_cancelled"): "cancel", (S.QUEUED, "rescue_cancelled"): "cancel"}


def test_every_event_of_the_table_is_tried() -> None:
    assert {event for _, event in TRANSITIONS} == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_makes_of_each_state_what_the_table_says(desk: Desk, event: str) -> None:
    for state in JobStatus:
        job_id = _put(desk, state, attempts=1 if event == "rescue_last" else 4)
        EVENTS[event](desk, job_id)
        expected = TRANSITIONS.get((state, FOLLOWS.get((state, event), event)), state)
        assert desk.state(job_id) == expected, f"{state} and {event}"
        desk.sql("TRUNCATE {soniq}.jobs, {soniq}.history, {soniq}.dead_letters")


def test_cancelling_a_running_job_asks_it_to_stop(desk: Desk) -> None:
    job_id = _put(desk, S.PROCESSING)
    assert desk.ask(jobs.cancel(job_id, "always")) is True
    assert desk.ask(jobs.get(job_id)).cancel_requested
    assert desk.ask(workers.held(WORKER, [job_id])) == [(job_id, True)]


ENDINGS: dict[str, Callable[[Desk, str, str, int], Any]] = {
    "finish": lambda desk, worker, job_id, attempt: desk.finish(worker, job_id, attempt),
    "drop": lambda desk, w, j, a: desk.ask(endings.drop(w, _told(j, a))),
    "bury": lambda desk, w, j, a: desk.ask(endings.bury(w, _told(j, a))),
    "again": lambda desk, w, j, a: desk.ask(endings.again(w, _told(j, a, delay=1.0))),
    "snooze": lambda desk, w, j, a: desk.ask(endings.later(w, _told(j, a, delay=1.0))),
    "release": lambda desk, w, j, a: desk.ask(endings.release(w, _told(j, a), "off")),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ending_of_somebody_else_changes_nothing_and_answers_nothing(
    desk: Desk, ending: str
) -> None:
    write = ENDINGS[ending]
    job_id = _put(desk, S.PROCESSING)
    before = desk.everything()
    assert write(desk, WORKER, job_id, 2) == []
    assert write(desk, WORKER, job_id, 0) == []
    assert write(desk, str(uuid.uuid4()), job_id, 1) == []
    assert write(desk, WORKER, str(uuid.uuid4()), 1) == []
    assert desk.everything() == before
    # Handed back and not claimed again, the job has the attempt but no worker: nobody may write.
    for state in ("queued", "scheduled"):
        desk.sql("UPDATE {soniq}.jobs SET state = %s, worker_id = NULL", state)
        before = desk.everything()
        assert write(desk, WORKER, job_id, 1) == []
        assert desk.everything() == before
    desk.sql("UPDATE {soniq}.jobs SET state = 'processing', worker_id = %s", WORKER)
    assert write(desk, WORKER, job_id, 1) == [job_id]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ending_is_written_once(desk: Desk, ending: str) -> None:
    """A worker that never got the answer asks again."""
    job_id = _put(desk, S.PROCESSING)
    assert ENDINGS[ending](desk, WORKER, job_id, 1) == [job_id]
    before = desk.everything()
    assert ENDINGS[ending](desk, WORKER, job_id, 1) == []
    assert desk.everything() == before


def test_a_batch_writes_what_is_held_and_leaves_out_what_is_lost(desk: Desk) -> None:
    ids = [desk.enqueue() for _ in range(4)]
    desk.claim(WORKER, 3)
    written = desk.ask(endings.finish(WORKER, ids, [1, 2, 1, 1], ['"a"', '"b"', None, '"d"']))
    assert sorted(written) == [ids[0], ids[2]]
    assert [desk.state(job_id) for job_id in ids] == ["done", "processing", "done", "queued"]
    assert [desk.ask(jobs.get(job_id)).result for job_id in ids[::2]] == ["a", None]


@pytest.mark.parametrize(("event", "spent"), [("again", 1), ("snooze", 0), ("release", 0)])
def test_an_attempt_counts_when_it_failed_and_only_then(desk: Desk, event: str, spent: int) -> None:
    job_id = _put(desk, S.PROCESSING)
    EVENTS[event](desk, job_id)
    job = desk.ask(jobs.get(job_id))
    assert (job.attempt, job.worker_id) == (spent, None)
    assert len(job.attempts) == spent


def test_without_a_delay_a_retry_is_queued_at_once(desk: Desk) -> None:
    for write in (endings.again, endings.later):
        job_id = _put(desk, S.PROCESSING)
        desk.ask(write(WORKER, _told(job_id, delay=0.0)))
        assert desk.state(job_id) == "queued"
        desk.sql("TRUNCATE {soniq}.jobs")


def test_a_retry_is_due_its_delay_after_the_failure_was_written(desk: Desk) -> None:
    job_id = _put(desk, S.PROCESSING)
    before = desk.value("SELECT clock_timestamp()")
    desk.ask(endings.again(WORKER, _told(job_id, delay=90.0)))
    after = desk.value("SELECT clock_timestamp()")
    due = desk.ask(jobs.get(job_id)).scheduled_at
    assert 90 <= (due - before).total_seconds() <= 90 + (after - before).total_seconds()


def test_a_job_handed_back_keeps_its_place(desk: Desk) -> None:
    first, second = desk.enqueue(), desk.enqueue()
    (job,) = desk.claim(WORKER)
    assert job.id == first
    desk.ask(endings.release(WORKER, _told(first), "off"))
    assert [job.id for job in desk.claim(WORKER)] == [first]
    assert [job.id for job in desk.claim(WORKER)] == [second]


def test_each_failed_attempt_is_noted_and_only_the_last_fifty_are_kept(desk: Desk) -> None:
    job_id = desk.enqueue(max_attempts=100)
    for attempt in range(1, 54):
        desk.claim(WORKER)
        told = [Told(job_id, attempt, outcome="failed", error=f"E: {attempt}", traceback="tb")]
        assert desk.ask(endings.again(WORKER, told)) == [job_id]
    noted = desk.ask(jobs.get(job_id)).attempts
    assert [entry.attempt for entry in noted] == list(range(4, 54))
    assert (noted[-1].error, noted[-1].traceback) == ("E: 53", "tb")
    assert noted[-1].worker_id == WORKER
    assert noted[-1].started_at is not None
    assert noted[-1].started_at <= noted[-1].ended_at


def test_what_a_job_was_enqueued_with_is_kept_to_the_end(desk: Desk) -> None:
    options = {
        "args": '{"a": 1}', "priority": 7, "tags": ("x",), "timeout": 1.5, "trace": '{"t": 2}',
    }  # fmt: skip
    columns = "task, queue, CAST(args AS text), priority, tags, timeout_seconds, max_attempts"
    moments = "scheduled_at, created_at, CAST(trace AS text)"
    for end, table in (("finish", "history"), ("drop", "history"), ("bury", "dead_letters")):
        job_id = desk.enqueue(**options)
        live = desk.sql(f"SELECT {columns}, {moments} FROM {{soniq}}.jobs WHERE id = %s", job_id)
        desk.claim(WORKER)
        EVENTS[end](desk, job_id)
        kept = desk.sql(f"SELECT {columns}, {moments} FROM {{soniq}}.{table} WHERE id = %s", job_id)
        assert kept == live


def test_a_replayed_dead_letter_makes_a_new_job_and_points_at_it(desk: Desk) -> None:
    job_id = _put(desk, S.DEAD_LETTER)
    new_id = desk.ask(jobs.retry(job_id, "off"))
    letter = desk.ask(dead_letters.get(job_id))
    assert letter.replayed_as == new_id != job_id
    assert letter.replayed_at is not None
    job = desk.ask(jobs.get(new_id))
    assert (job.status, job.attempt, job.attempts) == (S.QUEUED, 0, ())


@pytest.mark.parametrize("state", [S.DONE, S.CANCELLED])
def test_an_ended_job_runs_again_as_a_new_one(desk: Desk, state: JobStatus) -> None:
    job_id = _put(desk, state)
    before = desk.ask(jobs.get(job_id))
    new_id = desk.ask(jobs.retry(job_id, "off"))
    assert desk.state(new_id) == "queued"
    assert dict(desk.ask(jobs.get(job_id))) == dict(before)


def test_delete_forgets_any_job_but_one_that_runs(desk: Desk) -> None:
    for state in JobStatus:
        job_id = _put(desk, state)
        assert desk.ask(jobs.delete(job_id, "off")) is (state is not S.PROCESSING)
        assert (desk.state(job_id) is None) is (state is not S.PROCESSING)
        assert desk.ask(jobs.delete(job_id, "off")) is False
        desk.sql("TRUNCATE {soniq}.jobs")


def test_a_record_that_is_pruned_while_it_is_retried_is_told_as_missing(desk: Desk) -> None:
    """The second statement found no row, and unpacking its answer raised a ValueError."""
    job_id = _put(desk, S.DONE)

    def pruned_in_between(steps: Steps[str]) -> Steps[str]:
        answer: Any = None
        while True:
            try:
                step: Any = steps.send(answer)
            except StopIteration as end:
                return str(end.value)
            if step.sql == jobs.COPY_OF_PAST:
                desk.sql("DELETE FROM {soniq}.history")
            answer = yield step

    with pytest.raises(JobNotFound, match=job_id):
        desk.ask(pruned_in_between(jobs.retry(job_id, "off")))


@pytest.mark.parametrize(("first", "second"), [("cancel", "claim"), ("claim", "cancel")])
def test_a_cancel_and_a_claim_that_meet_leave_one_clear_state(
    desk: Desk, other: Desk, first: str, second: str
) -> None:
    """The one that comes second waits for the first, or skips its row."""
    job_id = _put(desk, S.QUEUED)
    with desk.connection.transaction():
        EVENTS[first](desk, job_id)
        if second == "claim":
            assert other.claim(WORKER) == []
        else:
            answers: list[bool] = []
            thread = threading.Thread(
                target=lambda: answers.append(other.ask(jobs.cancel(job_id, "always")))
            )
            thread.start()
            desk.until_somebody_waits()
    if second == "claim":
        assert desk.state(job_id) == "cancelled"
    else:
        thread.join(10)
        assert answers == [True]
        assert desk.state(job_id) == "processing"
        assert desk.ask(jobs.get(job_id)).cancel_requested


def test_a_claim_tells_the_worker_all_it_needs(desk: Desk) -> None:
    moment = desk.value("SELECT clock_timestamp()")
    job_id = desk.enqueue(args='{"a": "ü"}', tags=("x", "y"), timeout=2.0, trace='{"t": 1}')
    (job,) = desk.claim(WORKER)
    assert isinstance(job, Claimed)
    assert (job.id, job.task, job.queue, job.args) == (job_id, "task", "default", '{"a": "ü"}')
    assert (job.attempt, job.max_attempts, job.snoozes, job.priority) == (1, 4, 0, 100)
    assert (job.timeout, job.tags, job.trace) == (2.0, '["x", "y"]', '{"t": 1}')
    assert job.created_at >= moment
    assert job.scheduled_at == job.created_at
