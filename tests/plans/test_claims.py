"""Who gets which job, in which order, and who is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from soniq.store import bulk, claims, dead_letters, endings, jobs, leaders, queues, workers
from soniq.store.endings import Told

from .desk import Desk, new_job

WORKER = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"
OTHER = "0b0d3c6e-64b5-4d0b-a7a4-6c4f6a5dd0ff"
Ear = Callable[[], list[str]]


def test_lower_priority_first_then_the_moment_then_age(desk: Desk) -> None:
    now = datetime.now(UTC)
    made = {
        name: desk.enqueue(priority=priority, due=now - timedelta(seconds=age))
        for name, priority, age in [
            ("late", 100, 10), ("later", 100, 5), ("first", 1, 0), ("last", 1000, 99),
            ("same a", 50, 7), ("same b", 50, 7),
        ]
    }  # fmt: skip
    order = [desk.claim(WORKER)[0].id for _ in made]
    names = ["first", "same a", "same b", "late", "later", "last"]
    assert order == [made[name] for name in names]
    assert desk.claim(WORKER) == []


def test_a_claim_takes_the_first_ones_when_there_are_more(desk: Desk) -> None:
    ids = [desk.enqueue() for _ in range(6)]
    assert sorted(job.id for job in desk.claim(WORKER, 4)) == ids[:4]


def test_what_another_transaction_holds_is_skipped_and_not_waited_for(
    desk: Desk, other: Desk
) -> None:
    ids = [desk.enqueue() for _ in range(4)]
    with desk.connection.transaction():
        first = [job.id for job in desk.claim(WORKER, 2)]
        second = [job.id for job in other.claim(OTHER, 4)]
    assert (sorted(first), sorted(second)) == (ids[:2], ids[2:])
    assert desk.claim(WORKER, 4) == []
    with desk.connection.transaction(force_rollback=True):
        desk.sql("UPDATE {soniq}.jobs SET state = 'queued', worker_id = NULL")
        assert len(desk.claim(WORKER, 4)) == 4
    assert [desk.ask(jobs.get(job_id)).worker_id for job_id in ids] == [WORKER] * 2 + [OTHER] * 2


def test_a_paused_queue_is_left_alone_until_its_time_has_passed(desk: Desk) -> None:
    desk.enqueue()
    desk.sql("INSERT INTO {soniq}.queues (name, paused) VALUES ('default', true)")
    assert desk.claim(WORKER) == []
    (stats,) = desk.ask(queues.stats(30.0))
    assert (stats.queued, stats.paused) == (1, True)
    until = "UPDATE {soniq}.queues SET paused_until = statement_timestamp() + %s * interval '1 s'"
    desk.sql(until, 60)
    assert desk.claim(WORKER) == []
    desk.sql(until, -1)
    (stats,) = desk.ask(queues.stats(30.0))
    assert not stats.paused
    assert len(desk.claim(WORKER)) == 1


def test_an_unknown_task_stays_queued_and_the_ones_behind_it_are_found(desk: Desk) -> None:
    strange = desk.enqueue(task="strange", priority=1)
    known = desk.enqueue()
    assert [job.id for job in desk.claim(WORKER, 5)] == [known]
    assert desk.state(strange) == "queued"
    assert desk.ask(claims.unknown_tasks(["default"], ["task"])) == ["strange"]
    assert desk.ask(claims.unknown_tasks(["default"], ["strange", "task"])) == []
    assert desk.ask(claims.unknown_tasks(["elsewhere"], [])) == []


def test_each_queue_gives_the_number_it_was_asked_for(desk: Desk) -> None:
    for queue in ("a", "b", "c"):
        for _ in range(5):
            desk.enqueue(queue=queue)
    taken = desk.ask(claims.claim(WORKER, {"a": 2, "b": 3, "empty": 9}, ["task"]))
    queue_names = [job.queue for job in taken]
    assert {name: queue_names.count(name) for name in "abc"} == {"a": 2, "b": 3, "c": 0}


@pytest.mark.parametrize("queues", [("default",), ("default", "other")])
def test_a_claim_ahead_is_bounded_by_the_bytes_of_the_arguments(
    desk: Desk, queues: tuple[str, ...]
) -> None:
    """The first jobs, for which there are slots, are taken however large they are."""
    args = json.dumps({"text": "x" * 100_000})  # compressed it would be a hundredth
    ids = [desk.enqueue(args=args) for _ in range(12)]

    def claimed(slots: int | None) -> list[str]:
        numbers = dict.fromkeys(queues, 6)
        query = claims.claim(WORKER, numbers, ["task"], slots=slots, most_bytes=350_000)
        return sorted(job.id for job in desk.ask(query))

    assert claimed(1) == ids[:3]
    assert claimed(5) == ids[3:8]
    assert len(desk.ask(claims.claim(WORKER, dict.fromkeys(queues, 9), ["task"]))) == 4


def test_a_claim_from_above_the_head_keeps_the_order_of_its_priorities(desk: Desk) -> None:
    now = datetime.now(UTC)

    def made(priority: int, age: float, **more: Any) -> str:
        return desk.enqueue(priority=priority, due=now - timedelta(seconds=age), **more)

    made(5, 60)
    made(50, 60)
    made(70, 1)
    urgent, first, second = made(5, 9), made(50, 8), made(50, 7)
    made(5, 9, queue="elsewhere")
    made(5, 9, task="strange")
    above = [(5, now - timedelta(seconds=10)), (50, now - timedelta(seconds=10))]

    def claimed(number: int) -> list[str]:
        query = claims.claim(WORKER, {"default": number}, ["task"], above=above)
        return sorted(job.id for job in desk.ask(query))

    assert claimed(2) == sorted([urgent, first])
    desk.sql("INSERT INTO {soniq}.queues (name, paused) VALUES ('default', true)")
    assert claimed(9) == []
    desk.sql("DELETE FROM {soniq}.queues")
    assert claimed(9) == [second]


def test_lanes_are_the_queues_that_have_work(desk: Desk) -> None:
    assert desk.ask(claims.lanes([])) == []
    for queue in ("b", "a", "b", "Ü", "only processing"):
        desk.enqueue(queue=queue)
    desk.enqueue(queue="only scheduled", due=3600.0)
    desk.claim(WORKER, queue="only processing")
    assert sorted(desk.ask(claims.lanes([]))) == ["a", "b", "Ü"]
    assert desk.ask(claims.lanes(["Ü", "none", "a"])) == ["Ü", "a"]
    assert desk.ask(claims.lanes(["none", "only scheduled"])) == []


def test_lanes_are_found_beside_those_that_are_not_looked_at(desk: Desk) -> None:
    names = ["a", "b", "c", "d", "Ü"]
    for queue in names:
        desk.enqueue(queue=queue)
    for beside in [["b"], ["a"], ["Ü", "a"], ["c", "b"], ["bb"], names]:
        rest = sorted(set(names) - set(beside))
        assert sorted(desk.ask(claims.lanes([], beside=beside))) == rest
        assert sorted(desk.ask(claims.lanes(names, beside=beside))) == rest


def test_jobs_asked_to_stop_before_they_were_handed_back_say_so_when_claimed(desk: Desk) -> None:
    job_id = desk.enqueue()
    (job,) = desk.claim(WORKER)
    desk.ask(jobs.cancel(job_id, "always"))
    desk.ask(endings.release(WORKER, [Told(job.id, job.attempt)], "off"))
    (taken,) = desk.ask(claims.claim(OTHER, {"default": 1}, ["task"]))
    assert taken.cancel_requested


def test_what_a_worker_holds_without_knowing_goes_back_uncounted(desk: Desk) -> None:
    known, forgotten, others = (desk.enqueue() for _ in range(3))
    desk.claim(WORKER, 2)
    desk.claim(OTHER, 1)
    assert desk.ask(claims.hand_back_forgotten(WORKER, [known])) == [forgotten]
    assert [desk.state(job) for job in (known, forgotten, others)] == [
        "processing", "queued", "processing",
    ]  # fmt: skip
    assert desk.ask(jobs.get(forgotten)).attempt == 0


# -- the moment scheduled jobs become due


def test_staging_moves_what_is_due_and_tells_the_seconds_to_the_next(desk: Desk) -> None:
    due = [desk.enqueue(due=60.0) for _ in range(3)]
    desk.sql("UPDATE {soniq}.jobs SET scheduled_at = scheduled_at - interval '61 seconds'")
    soon = desk.enqueue(due=30.0)
    desk.enqueue(due=90.0)
    (staged,) = desk.ask(claims.stage("off"))
    assert staged.moved == 3
    assert 29 < staged.next_seconds <= 30
    assert {desk.state(job_id) for job_id in due} == {"queued"}
    assert desk.state(soon) == "scheduled"
    (staged,) = desk.ask(claims.stage("off"))
    assert staged.moved == 0


def test_staging_an_empty_table_answers_that_there_is_nothing(desk: Desk) -> None:
    (staged,) = desk.ask(claims.stage("off"))
    assert (staged.moved, staged.next_seconds) == (0, None)


def test_a_thousand_are_staged_at_a_time_and_the_oldest_first(desk: Desk) -> None:
    desk.ask(bulk.enqueue_many([new_job(due=60.0) for _ in range(1200)], (), "off", can_copy=True))
    desk.sql("UPDATE {soniq}.jobs SET scheduled_at = scheduled_at - interval '61 seconds'")
    oldest = desk.enqueue(due=60.0)
    desk.sql(
        "UPDATE {soniq}.jobs SET scheduled_at = scheduled_at - interval '1 hour' WHERE id = %s",
        oldest,
    )
    for way in ("indexscan", "bitmapscan"):  # the order is asked for, not the index's gift
        desk.sql(f"SET enable_{way} = off")
    assert desk.ask(claims.stage("off"))[0].moved == 1000
    assert desk.state(oldest) == "queued"
    assert desk.ask(claims.stage("off"))[0].moved == 201


def test_a_delay_counts_from_the_statement_and_not_from_the_transaction(desk: Desk) -> None:
    """It would be over before a long transaction's COMMIT."""
    with desk.connection.transaction():
        desk.value("SELECT now()")
        desk.value("SELECT pg_sleep(0.2)")
        job_id = desk.enqueue(due=0.1)
        assert desk.value("SELECT now() + interval '0.15 s' < statement_timestamp()")
    assert desk.state(job_id) == "scheduled"


# -- who is told


def test_an_idle_worker_that_serves_the_queue_is_told(desk: Desk, ear: Ear) -> None:
    desk.worker(idle=True, queues=("emails",))
    desk.enqueue("auto", queue="emails")
    assert ear() == ["q:emails"]
    desk.enqueue("auto", queue="others")
    assert ear() == []


def test_a_worker_of_all_queues_is_told_of_any(desk: Desk, ear: Ear) -> None:
    desk.worker(idle=True, queues=())
    desk.enqueue("auto", queue="others")
    assert ear() == ["q:others"]


def test_nobody_is_told_when_nobody_is_idle(desk: Desk, ear: Ear) -> None:
    worker = desk.worker(idle=False)
    desk.enqueue("auto")
    assert ear() == []
    desk.ask(workers.set_idle(worker, idle=True))
    desk.enqueue("auto")
    assert ear() == ["q:default"]
    desk.ask(workers.set_idle(worker, idle=False))
    desk.enqueue("auto")
    assert ear() == []


def test_always_and_off_mean_what_they_say(desk: Desk, ear: Ear) -> None:
    desk.enqueue("always")
    assert ear() == ["q:default"]
    desk.worker(idle=True)
    desk.enqueue("off")
    assert ear() == []


def test_the_short_statement_tells_whom_the_long_one_tells(desk: Desk, ear: Ear) -> None:
    """Jobs without special wishes go by a statement that has the rule of `wake` written out."""
    for idle, served in [(True, ()), (True, ("a", "default")), (True, ("a",)), (False, ())]:
        desk.worker(idle=idle, queues=served)
        desk.enqueue("auto", tags=("special",))
        long = ear()
        desk.enqueue("auto")
        assert ear() == long, (idle, served)
        assert long == (["q:default"] if idle and served != ("a",) else [])
        desk.sql("DELETE FROM {soniq}.workers")


def test_a_rolled_back_job_tells_nobody(desk: Desk, ear: Ear) -> None:
    desk.worker(idle=True)
    with desk.connection.transaction(force_rollback=True):
        desk.enqueue("auto")
    assert ear() == []


def _many(desk: Desk, rows: list[dict[str, Any]], copy: bool) -> None:
    given = [new_job(**row) for row in rows]
    desk.ask(
        bulk._copy(given, (), "always", lambda _: None)
        if copy
        else bulk.enqueue_many(given, (), "always")
    )


PAST = datetime(2001, 1, 1, tzinfo=UTC)
TOLD: list[tuple[list[dict[str, Any]], list[str]]] = [
    ([{}, {}], ["q:default"]),
    ([{}, {"queue": "b"}], ["q:*"]),
    ([{"due": 3600.0}], []),
    ([{"due": 3600.0, "queue": "b"}, {}], ["q:default"]),
    ([{"due": 2.0}], ["q:*"]),
    ([{"due": 2.0}, {}], ["q:*"]),
    ([{"due": 0.0}], ["q:default"]),
    ([{"due": PAST}, {"due": PAST}], ["q:default"]),
]


@pytest.mark.parametrize("copy", [False, True], ids=["one statement", "COPY"])
def test_a_bulk_tells_once_and_only_of_what_is_due_soon(desk: Desk, ear: Ear, copy: bool) -> None:
    """COPY told nobody of jobs whose moment was near, or past."""
    for rows, said in TOLD:
        _many(desk, rows, copy)
        assert ear() == said, rows


@pytest.mark.parametrize(
    ("due", "said"),
    [(None, ["q:default"]), (PAST, ["q:default"]), (2.0, ["q:*"]), (3600.0, [])],
    ids=str,
)
def test_one_job_tells_once_and_only_if_due_soon(
    desk: Desk, ear: Ear, due: Any, said: list[str]
) -> None:
    desk.enqueue("always", due=due)
    assert ear() == said
    job_id = desk.enqueue("off", due=3600.0)
    desk.ask(jobs.reschedule(job_id, due, "always"))
    assert ear() == said


def test_the_public_function_tells_as_the_client_does(desk: Desk, ear: Ear) -> None:
    desk.worker(idle=True, queues=("emails",))
    for call, said in [
        ("'t', queue => 'emails'", ["q:emails"]),
        ("'t', queue => 'others'", []),
        ("'t', queue => 'emails', delay => '2 s'", ["q:*"]),
        ("'t', queue => 'emails', delay => '1 h'", []),
    ]:
        desk.sql(f"SELECT {{soniq}}.enqueue({call})")
        assert ear() == said, call


def test_staging_and_giving_back_tell_once_each(desk: Desk, ear: Ear) -> None:
    desk.worker(idle=True)
    for queue in ("a", "a", "b"):
        desk.enqueue(queue=queue, due=60.0)
    due = "UPDATE {soniq}.jobs SET scheduled_at = statement_timestamp() WHERE state = 'scheduled'"
    desk.sql(due)
    desk.ask(claims.stage("auto"))
    assert ear() == ["q:*"]
    desk.ask(claims.stage("auto"))
    assert ear() == []
    desk.enqueue(queue="c", due=60.0)
    desk.sql(due)
    desk.ask(claims.stage("auto"))
    assert ear() == ["q:c"]
    taken = desk.claim(WORKER, 2, "a")
    told = [Told(job.id, job.attempt) for job in taken]
    desk.ask(endings.release(WORKER, told, "auto"))
    assert ear() == ["q:*"]
    desk.ask(endings.release(WORKER, told, "auto"))
    assert ear() == []


def test_running_an_old_job_again_tells_of_it(desk: Desk, ear: Ear) -> None:
    desk.worker(idle=True)
    job_id, other_id = desk.enqueue(), desk.enqueue()
    first, second = (desk.claim(WORKER)[0] for _ in range(2))
    desk.finish(WORKER, first.id, 1)
    desk.ask(endings.bury(WORKER, [Told(second.id, 1, reason="r", outcome="failed")]))
    desk.ask(jobs.retry(job_id, "auto"))
    assert ear() == ["q:default"]
    desk.ask(dead_letters.replay(other_id, "auto"))
    assert ear() == ["q:default"]
    later = desk.enqueue("auto", due=3600.0)
    assert ear() == []
    desk.ask(jobs.retry(later, "auto"))
    assert ear() == ["q:default"]


def test_the_worker_of_a_running_job_is_told_to_stop_it(desk: Desk, ear: Ear) -> None:
    job_id = desk.enqueue()
    desk.claim(WORKER)
    desk.ask(jobs.cancel(job_id, "always"))
    assert ear() == [f"c:{job_id}"]
    waiting = desk.enqueue()
    desk.ask(jobs.cancel(waiting, "always"))
    assert ear() == []


def test_nobody_is_told_of_a_cancel_when_notifying_is_off(desk: Desk, ear: Ear) -> None:
    """The heartbeat finds it; `notify=off` was broken by this one statement."""
    job_id = desk.enqueue()
    desk.claim(WORKER)
    assert desk.ask(jobs.cancel(job_id, "off")) is True
    assert ear() == []
    assert desk.ask(jobs.get(job_id)).cancel_requested


# -- who leads


def test_one_leads_until_the_lease_ends_or_is_given_up(desk: Desk) -> None:
    assert desk.ask(leaders.lead("rescue", WORKER, 30)) == [True]
    assert desk.ask(leaders.lead("rescue", OTHER, 30)) == []
    assert desk.ask(leaders.lead("prune", OTHER, 30)) == [True]
    assert desk.ask(leaders.lead("rescue", WORKER, 30)) == [True]
    desk.ask(leaders.resign("rescue", OTHER))
    assert desk.ask(leaders.lead("rescue", OTHER, 30)) == []
    desk.ask(leaders.resign("rescue", WORKER))
    assert desk.ask(leaders.lead("rescue", OTHER, 30)) == [True]
    desk.sql("UPDATE {soniq}.leaders SET expires_at = expires_at - interval '31 seconds'")
    assert desk.ask(leaders.lead("rescue", WORKER, 30)) == [True]
    assert desk.ask(leaders.lead("rescue", OTHER, 30)) == []


# -- lists


def test_pages_by_key_show_every_job_once_wherever_it_lies(desk: Desk) -> None:
    ids = [desk.enqueue(queue="a" if n % 2 else "b") for n in range(9)]
    for job_id, job in zip(ids[1:8:2], desk.claim(WORKER, 4, "a"), strict=True):
        assert job_id == job.id
    desk.finish(WORKER, ids[1], 1)
    desk.ask(endings.bury(WORKER, [Told(ids[3], 1, reason="r", outcome="failed")]))
    desk.ask(jobs.cancel(ids[0], "always"))
    seen: list[str] = []
    while page := desk.ask(
        jobs.list_jobs(
            status=None, queue=None, task=None, limit=2, before=seen[-1] if seen else None
        )
    ):
        seen += [job.id for job in page]
    assert seen == ids[::-1]
    listed = desk.ask(jobs.list_jobs(status=None, queue="a", task="task", limit=9, before=None))
    assert [job.id for job in listed] == ids[7:0:-2]
    letters = desk.ask(dead_letters.list_letters(queue="a", task="task", limit=5, before=None))
    assert [letter.id for letter in letters] == [ids[3]]


def test_jobs_that_end_while_they_are_listed_are_listed_once(desk: Desk, other: Desk) -> None:
    """Three looks: one that died after the first was in none, one that ended later in two."""
    dies, ends = desk.enqueue(), desk.enqueue()
    desk.claim(WORKER, 2)
    told = [Told(dies, 1, reason="r", outcome="failed")]
    moves = [lambda: other.ask(endings.bury(WORKER, told)), lambda: other.finish(WORKER, ends, 1)]
    looks = jobs.list_jobs(status=None, queue=None, task=None, limit=9, before=None)

    def watched() -> Any:
        """Let one job move after each look."""
        answer: Any = None
        while True:
            try:
                look = looks.send(answer)
            except StopIteration as end:
                return end.value
            answer = desk.ask(look)
            for move in moves[:1]:
                move()
            del moves[:1]

    assert [job.id for job in watched()] == [ends, dies]


def test_stats_count_every_state_of_every_queue(desk: Desk) -> None:
    for queue in ("a", "a", "b"):
        desk.enqueue(queue=queue)
    desk.enqueue(queue="a", due=60.0)
    desk.claim(WORKER, queue="a")
    (job,) = desk.claim(WORKER, queue="b")
    desk.ask(endings.bury(WORKER, [Told(job.id, 1, reason="r", outcome="failed")]))
    desk.sql("INSERT INTO {soniq}.queues (name) VALUES ('c')")
    found = desk.ask(queues.stats(30.0))
    counts = [(s.queue, s.scheduled, s.queued, s.processing, s.dead_letters) for s in found]
    assert counts == [("a", 1, 1, 1, 0), ("b", 0, 0, 0, 1), ("c", 0, 0, 0, 0)]
    assert found[0].oldest_seconds > 0
    assert found[1].oldest_seconds is None
