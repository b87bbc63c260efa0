"""Of all that stands in a job's way, the sentences name what an operator should look at first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from soniq.job.record import Attempt, Job, JobStatus
from soniq.policy.why import Facts, Gate, spoken, why_not

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
JOB = Job("id", "mail", "emails", {}, JobStatus.QUEUED, 100, 0, 4, NOW, NOW)
FREE = Facts(
    due_seconds=-1.0, paused=False, paused_seconds=None, workers=2, able=1, slots=10, running=0,
    ahead=0, concurrency=None, rate_wait_seconds=None, queue_running=0, held_by=None,
    silent_seconds=None,
)  # fmt: skip


def said(job: Job = JOB, **facts: Any) -> str:
    return why_not(job, replace(FREE, **facts), 30.0)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, "Nothing stands in its way"),
        ({"paused": True}, "'emails' is paused; `soniq queues resume`"),
        ({"paused": True, "paused_seconds": 600.0}, "paused for another 10 minutes."),
        ({"workers": 0, "able": 0}, "No live worker serves its queue 'emails'."),
        ({"able": 0}, "2 live workers serve its queue 'emails', but none has the task 'mail'."),
        ({"able": 0, "workers": 1}, "1 live worker serves"),
        ({"ahead": 1}, "1 job of its queue is before it."),
        ({"ahead": 7}, "7 jobs of its queue are before it."),
        ({"ahead": 1001}, "Over 1,000 jobs of its queue are before it."),
        ({"running": 10}, "All 10 slots"),
        ({"concurrency": 3, "queue_running": 3}, "limited to 3 at once, and 3 run now."),
        ({"rate_wait_seconds": 7.0}, "'emails' is over its rate; the next may start in 7 s."),
    ],
)
def test_a_queued_job_says_what_it_waits_for(facts: dict[str, Any], words: str) -> None:
    assert words in said(**facts)


GATE = Gate("t", None, None, 0, 0, None, None)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({}, "Nothing stands in its way"),
        ({"concurrency": 2, "running": 1}, "Nothing stands in its way"),
        ({"concurrency": 2, "running": 2}, "Its task 'mail' is limited to 2 at once, and 2 run"),
        ({"gate": "kacme", "key_concurrency": 3, "key_running": 3}, "Its key 'acme' is limited"),
        ({"gate": "oacme", "key_running": 1}, "Its key 'acme' is limited to 1 at once, and 1 run"),
        ({"closed_seconds": 90.0}, "The circuit breaker of its task 'mail' is open for another 90"),
        ({"closed_seconds": -1.0}, "Nothing stands in its way"),
        ({"closed_seconds": -1.0, "tried_with": "id"}, "Nothing stands in its way"),
        ({"closed_seconds": -1.0, "tried_with": "other"}, "'mail' is open; job other tries it now"),
        ({"gate": "kx", "closed_seconds": 9.0, "stopped_by_key": True}, "breaker of its key 'x'"),
        ({"gate": "ox", "retried_id": "one"}, "Job one of its key 'x' waits for its retry first."),
        ({"rate_wait_seconds": 4.2}, "is over its rate; the next may start in 4 s."),
    ],
)
def test_a_job_behind_a_gate_says_what_keeps_it_shut(gate: dict[str, Any], words: str) -> None:
    assert words in said(gate=replace(GATE, **gate))


def test_what_matters_most_comes_first_and_two_sentences_are_enough() -> None:
    words = said(paused=True, workers=0, able=0, ahead=9)
    assert words.index("is paused") < words.index("No live worker")
    assert "before it" not in words
    assert "before it" not in said(paused=True, ahead=9)
    assert "at once" not in said(concurrency=3, queue_running=2, ahead=1)


def test_a_scheduled_job_says_when_and_why_again() -> None:
    later = replace(JOB, status=JobStatus.SCHEDULED)
    assert said(later, due_seconds=90.0) == (
        "It is scheduled for 2026-01-31 12:00:00 UTC, in 90 s."
    )
    failed = Attempt(2, "failed", "ValueError: no", None, None, NOW, NOW)
    again = replace(later, attempts=(failed,))
    assert "Attempt 2 ended as failed; the next is due 2026-01-31" in said(again, due_seconds=90.0)
    assert "the next worker that looks" in said(later, due_seconds=-1.0)
    words = said(later, due_seconds=90.0, workers=0, able=0)
    assert words.endswith("in 90 s. No live worker serves its queue 'emails'.")


def test_a_running_job_says_where_and_whether_that_worker_lives() -> None:
    runs = replace(JOB, status=JobStatus.PROCESSING, attempt=2, worker_id="w")
    alive = {"held_by": "host:1", "silent_seconds": 3.0}
    assert said(runs, **alive) == "It is running: host:1 has it, as attempt 2."
    assert "asked to stop" in said(replace(runs, cancel_requested=True), **alive)
    assert "no signs of life" in said(runs, held_by="host:1", silent_seconds=31.0)
    assert "worker w, which gives no signs" in said(runs)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (JobStatus.DONE, "It has run, and is done since 2026-01-31 12:00:00 UTC."),
        (JobStatus.CANCELLED, "It was cancelled: purged."),
        (JobStatus.DEAD_LETTER, "It is a dead letter: purged. Its last error: ValueError: no."),
    ],
)
def test_an_ended_job_says_how(status: JobStatus, words: str) -> None:
    failed = Attempt(4, "failed", "ValueError: no", None, None, NOW, NOW)
    job = replace(JOB, status=status, reason="purged", finished_at=NOW, attempts=(failed,))
    assert why_not(job, None, 30.0) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.4, "3 s"), (150, "2 minutes"), (7200, "2 hours"), (200_000, "2 days")]
)
def test_times_are_spoken_in_round_numbers(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
