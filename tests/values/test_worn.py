"""When a claim begins above the head of its queue, and when it no longer does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from soniq.job.record import Claimed
from soniq.worker.worn import CLAIMS, MARGIN, Worn

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def job(second: float, priority: int = 100) -> Claimed:
    due = NOON + timedelta(seconds=second)
    return Claimed("id", "task", "q", "{}", 1, 4, 0, priority, due, due, None, None, None)


def found(jobs: list[Claimed], seconds: float) -> list[Claimed]:
    return [each._replace(found_seconds=seconds + place) for place, each in enumerate(jobs)]


def claimed(worn: Worn, queue: str, jobs: list[Claimed], seconds: float) -> bool:
    """Let it learn of a claim that looked for its first job for so long."""
    return worn.claimed(queue, found(jobs, seconds), seconds)


def several(worn: Worn, queues: int, seconds: float) -> None:
    worn.claimed_several(queues, found([job(0)], seconds), seconds)


def swept(worn: Worn, queue: str, jobs: list[Claimed], seconds: float) -> None:
    worn.swept(queue, found(jobs, seconds), seconds)


def worn_at(second: float, seconds: float = 0.01) -> Worn:
    worn = Worn()
    answers = [claimed(worn, "q", [job(second)], seconds) for _ in range(CLAIMS)]
    assert answers == [False] * (CLAIMS - 1) + [True]
    return worn


def test_one_quick_claim_among_slow_ones_shows_a_good_head() -> None:
    worn = Worn()
    for number in range(3 * CLAIMS):
        quick = number % CLAIMS == 0
        assert not claimed(worn, "q", [job(0)], 0.0005 if quick else 0.015)
    assert worn.queues == []
    assert worn.levels("q") is None


def test_claims_ten_times_as_slow_show_it_sooner() -> None:
    """Before eight of them were made, 100,000 jobs of unknown tasks took half a short drain."""
    worn = Worn()
    assert not claimed(worn, "q", [job(0)], 0.03)
    assert not claimed(worn, "q", [job(0)], 0.0005)
    assert not claimed(worn, "q", [job(0)], 0.03)
    assert claimed(worn, "q", [job(0)], 0.03)


def test_what_a_claim_waits_for_after_it_found_its_jobs_does_not_count() -> None:
    """On a slow disk each commit was taken for a walk: all queues were claimed one by one then."""
    worn = Worn()
    for _ in range(2 * CLAIMS):
        assert not worn.claimed("q", found([job(0)] * 400, 0.0005), 0.1)
        worn.claimed_several(2, found([job(0)], 0.0005), 0.1)
    assert not worn.one_by_one


def test_a_worn_queue_is_claimed_from_just_below_the_last_job_of_each_priority() -> None:
    worn = worn_at(5)
    assert worn.levels("q") == [(100, NOON + timedelta(seconds=5) - MARGIN)]
    claimed(worn, "q", [job(9), job(7), job(6, priority=1)], 0.001)
    assert worn.levels("q") == [
        (1, NOON + timedelta(seconds=6) - MARGIN),
        (100, NOON + timedelta(seconds=9) - MARGIN),
    ]
    claimed(worn, "q", [job(8)], 0.001)
    assert worn.levels("q") == [
        (1, NOON + timedelta(seconds=6) - MARGIN),
        (100, NOON + timedelta(seconds=9) - MARGIN),
    ]


def test_a_sweep_adds_what_it_finds_and_stays_while_the_head_is_slow() -> None:
    worn = worn_at(5)
    claimed(worn, "q", [job(6)], 0.001)
    swept(worn, "q", [job(1, priority=3)], 0.05)
    assert worn.queues == ["q"]
    assert (3, NOON + timedelta(seconds=1) - MARGIN) in (worn.levels("q") or [])


def test_a_sweep_as_quick_as_the_claims_ends_it_and_a_slow_server_is_learnt() -> None:
    worn = worn_at(5)
    claimed(worn, "q", [job(6)], 0.008)
    swept(worn, "q", [], 0.01)
    assert worn.queues == []
    for _ in range(2 * CLAIMS):  # as slow as before, for another reason than a worn head
        assert not claimed(worn, "q", [job(7)], 0.01)


def test_slow_claims_of_several_queues_have_them_asked_one_by_one() -> None:
    worn = Worn()
    for _ in range(CLAIMS):
        assert not worn.one_by_one
        several(worn, 2, 0.01)
    assert worn.one_by_one
    for _ in range(CLAIMS):
        claimed(worn, "good", [job(0)], 0.0005)
        claimed(worn, "q", [job(0)], 0.01)
    assert worn.queues == ["q"]
    assert worn.one_by_one


def test_queues_that_are_good_each_by_itself_are_claimed_together_again() -> None:
    worn = Worn()
    for _ in range(CLAIMS):
        several(worn, 2, 0.01)
    for _ in range(CLAIMS):
        claimed(worn, "q", [job(0)], 0.0005)
        claimed(worn, "r", [], 0.0005)
    assert worn.one_by_one
    for _ in range(CLAIMS):
        claimed(worn, "q", [job(0)], 0.0005)
        claimed(worn, "r", [], 0.0005)
    assert not worn.one_by_one
    for _ in range(2 * CLAIMS):  # as slow as before, for another reason than a worn head
        several(worn, 2, 0.01)
    assert not worn.one_by_one


def test_of_many_queues_it_is_not_asked_which_is_worn() -> None:
    worn = Worn()
    for _ in range(2 * CLAIMS):
        several(worn, 30, 0.01)
    assert not worn.one_by_one


def test_queues_are_asked_again_before_all_of_them_are_far_beyond_slow() -> None:
    """Three queues, each as slow as one of its own may be, cost three times that in every claim."""
    worn = Worn()
    for _ in range(CLAIMS):
        several(worn, 3, 0.0045)
    for _ in range(2 * CLAIMS):
        for queue in "abc":
            claimed(worn, queue, [job(0)], 0.001)
    assert not worn.one_by_one
    for _ in range(CLAIMS):
        several(worn, 3, 0.0061)
    assert worn.one_by_one
