"""Jobs behind gates: never more at once than allowed, whoever claims; in order; and in turn."""

from __future__ import annotations

from typing import Any

import pytest

from soniq.job.limits import CircuitBreaker, Limits, Pace
from soniq.store import claims, endings, gates, jobs, workers
from soniq.store.endings import Told
from soniq.store.gates import Looked, Taken

from .desk import Desk

WORKER = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"
OTHER = "0b0d3c6e-64b5-4d0b-a7a4-6c4f6a5dd0ff"


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def declare(desk: Desk, **limits: Any) -> None:
    desk.ask(gates.declare({"task": Limits(**limits)}))


def behind(desk: Desk, *keys: str, **more: Any) -> list[str]:
    """Enqueue a job for each key, behind its gate."""
    return [desk.enqueue(gate=key, **more) for key in keys]


def look(desk: Desk, number: int = 100, worker: str = WORKER, **more: Any) -> list[Any]:
    given = {"slots": number, "most_bytes": 10**6, **more}
    queues, tasks = given.pop("queues", []), given.pop("tasks", ["task"])
    answer: list[Any] = desk.ask(gates.claim(worker, queues, tasks, number, **given))
    return answer


def take(desk: Desk, number: int = 100, worker: str = WORKER, **more: Any) -> list[str]:
    """Claim; answer the ids in the order of their age."""
    rows = look(desk, number, worker, **more)
    return sorted(row.job.id for row in rows if isinstance(row, Taken))


def waits(rows: list[Any]) -> list[float | None]:
    return [row.wait_seconds for row in rows if isinstance(row, Looked)]


# -- how many


def test_a_task_runs_as_many_jobs_as_it_declares(desk: Desk) -> None:
    declare(desk, concurrency=3)
    ids = behind(desk, *"ttttt")
    assert take(desk) == ids[:3]
    assert take(desk) == []
    desk.finish(WORKER, ids[1], 1)
    assert take(desk, worker=OTHER) == ids[3:4]


def test_a_key_runs_as_many_jobs_as_its_task_declares(desk: Desk) -> None:
    declare(desk, key="k", key_concurrency=2)
    ids = behind(desk, "ka", "ka", "ka", "kb")
    assert take(desk) == [ids[0], ids[1], ids[3]]
    assert take(desk) == []


def test_a_job_behind_a_gate_is_in_no_plain_claim(desk: Desk) -> None:
    behind(desk, "t")
    assert desk.claim(WORKER) == []
    assert desk.ask(claims.lanes([])) == []
    assert desk.ask(claims.lanes(["default"])) == []
    assert desk.ask(claims.lanes([], beside=["a"])) == []


def test_a_gate_that_nobody_declared_lets_all_through(desk: Desk) -> None:
    ids = behind(desk, "ka", "t")
    assert take(desk) == ids


def test_what_is_declared_last_counts_and_what_says_nothing_has_no_limit(desk: Desk) -> None:
    declare(desk, concurrency=1)
    declare(desk, concurrency=2)
    ids = behind(desk, *"tttt")
    assert take(desk) == ids[:2]
    desk.ask(gates.declare({"task": None}))
    assert take(desk) == ids[2:]


def test_a_live_lease_counts_and_one_that_was_rescued_does_not(desk: Desk) -> None:
    declare(desk, concurrency=1)
    first, second = behind(desk, *"tt")
    take(desk)
    desk.watch_since_an_hour()
    desk.worker(id=WORKER)
    desk.ask(workers.rescue(30, "auto"))
    assert take(desk, worker=OTHER) == []
    desk.sql("DELETE FROM {soniq}.workers")
    desk.ask(workers.rescue(30, "auto"))
    assert take(desk, worker=OTHER) == [first]
    assert take(desk, worker=OTHER) == []
    desk.finish(OTHER, first, 2)
    assert take(desk, worker=OTHER) == [second]


@pytest.mark.parametrize("how", ["again", "later", "bury", "drop", "release", "forgotten"])
def test_every_ending_gives_its_place_free_and_keeps_the_gate(desk: Desk, how: str) -> None:
    declare(desk, concurrency=1)
    first, second = behind(desk, *"tt")
    take(desk)
    told = [Told(first, 1, delay=60.0, reason="r", outcome="failed")]
    queries = {
        "again": endings.again(WORKER, told),
        "later": endings.later(WORKER, told),
        "bury": endings.bury(WORKER, told),
        "drop": endings.drop(WORKER, told),
        "release": endings.release(WORKER, told, "auto"),
        "forgotten": claims.hand_back_forgotten(WORKER, []),
    }
    assert desk.ask(queries[how]) == [first]
    back = how in {"release", "forgotten"}
    assert take(desk) == [first if back else second]
    assert desk.claim(OTHER) == []


def test_two_workers_at_once_do_not_both_count_none(desk: Desk, other: Desk) -> None:
    """The second comes while the first has claimed and not yet committed: it goes away at once."""
    declare(desk, concurrency=1)
    ids = behind(desk, *"tt")
    with desk.connection.transaction():
        assert take(desk) == ids[:1]
        rows = look(other, worker=OTHER)
        assert [type(row) for row in rows] == [Looked]
        assert waits(rows) == [0.0]  # it is told to come again
    rows = look(other, worker=OTHER)
    assert waits(rows) == [None]


def test_a_claim_that_sees_an_old_snapshot_is_refused(desk: Desk) -> None:
    behind(desk, "t")
    desk.sql("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(Exception, match="read committed"):
        take(desk)


def test_jobs_of_other_tasks_queues_and_paused_queues_are_left(desk: Desk) -> None:
    (mine,) = behind(desk, "t")
    behind(desk, "t", task="other")
    behind(desk, "t", queue="elsewhere")
    behind(desk, "t", queue="paused")
    desk.sql("INSERT INTO {soniq}.queues (name, paused) VALUES ('paused', true)")
    assert take(desk, queues=["default", "paused"]) == [mine]
    assert len(take(desk)) == 1


def test_a_job_that_somebody_locks_holds_nobody_up(desk: Desk, other: Desk) -> None:
    declare(desk, concurrency=1)
    first, second = behind(desk, *"tt")
    with other.connection.transaction():
        other.sql("SELECT FROM {soniq}.jobs WHERE id = %s FOR UPDATE", first)
        assert take(desk) == [second]


def test_within_a_gate_priority_comes_first(desk: Desk) -> None:
    declare(desk, concurrency=1)
    _, urgent = desk.enqueue(gate="t"), desk.enqueue(gate="t", priority=1)
    assert take(desk) == [urgent]


def test_more_than_the_slots_are_taken_while_their_bytes_allow(desk: Desk) -> None:
    behind(desk, *"tttt", args='{"a": "' + "x" * 400 + '"}')
    assert len(take(desk, slots=1, most_bytes=900)) == 2


def test_jobs_that_came_without_their_gate_are_put_behind_it(desk: Desk) -> None:
    declare(desk, concurrency=1)
    job_id = str(desk.value("SELECT CAST({soniq}.enqueue('task') AS text)"))
    (job,) = desk.claim(WORKER)
    assert desk.ask(gates.put_behind(OTHER, [(job, "t")])) == []
    assert desk.ask(gates.put_behind(WORKER, [(job, "t")])) == [job_id]
    assert desk.claim(WORKER) == []
    assert take(desk) == [job_id]
    assert desk.ask(jobs.get(job_id)).attempt == 1


# -- in order


def test_keys_in_order_run_one_at_a_time(desk: Desk) -> None:
    declare(desk, key="k", ordered=True)
    ids = behind(desk, "oa", "ob", "oa", "ob")
    assert take(desk) == ids[:2]
    desk.finish(WORKER, ids[1], 1)
    assert take(desk) == ids[3:]


@pytest.mark.parametrize("how", [endings.again, endings.later])
@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_a_retry_holds_its_key_and_goes_first(desk: Desk, how: Any, delay: float) -> None:
    declare(desk, key="k", ordered=True)
    first, _, other_key = behind(desk, "oa", "oa", "ob")
    take(desk)
    desk.finish(WORKER, other_key, 1)
    desk.ask(how(WORKER, [Told(first, 1, delay=delay, outcome="failed")]))
    if delay:
        assert take(desk) == []
        desk.sql("UPDATE {soniq}.jobs SET scheduled_at = now() WHERE state = 'scheduled'")
        desk.ask(claims.stage("auto"))
    assert take(desk) == [first]


def test_a_held_retry_that_is_run_now_or_cancelled_lets_the_key_go_on(desk: Desk) -> None:
    declare(desk, key="k", ordered=True)
    first, second = behind(desk, "oa", "oa")
    take(desk)
    desk.ask(endings.again(WORKER, [Told(first, 1, delay=60.0, outcome="failed")]))
    desk.ask(jobs.retry(first, "auto"))
    assert take(desk) == [first]
    desk.ask(endings.again(WORKER, [Told(first, 2, delay=60.0, outcome="failed")]))
    desk.ask(jobs.cancel(first, "auto"))
    assert take(desk) == [second]


def test_a_job_that_is_not_due_holds_nobody(desk: Desk) -> None:
    declare(desk, key="k", ordered=True)
    desk.enqueue(gate="oa", due=60.0)
    assert take(desk) == []
    (now,) = behind(desk, "oa")
    assert take(desk) == [now]


def test_a_retry_that_steps_aside_holds_nobody(desk: Desk) -> None:
    declare(desk, key="k", key_concurrency=1)
    first, second = behind(desk, "ka", "ka")
    take(desk)
    desk.ask(endings.again(WORKER, [Told(first, 1, delay=60.0, outcome="failed")]))
    assert take(desk) == [second]


# -- in turn


def test_keys_take_turns_however_many_jobs_each_has(desk: Desk) -> None:
    declare(desk, key="k")
    behind(desk, *["ka"] * 50)
    few = behind(desk, "kb", "kc")
    taken = take(desk, 9)
    assert set(few) <= set(taken)


def test_the_next_claim_goes_on_where_the_last_one_ended(desk: Desk) -> None:
    declare(desk, key="k", concurrency=100)
    behind(desk, *["ka", "kb", "kc", "kd"] * 3)
    gates_of, marks, turn = [], {}, ""
    for _ in range(6):
        rows = look(desk, 2, marks=marks, turn=turn)
        gates_of.append([row.gate for row in rows if isinstance(row, Taken)])
        marks = {row.lane: row.mark for row in rows if isinstance(row, Looked)}
    assert sorted(gates_of[0] + gates_of[1]) == ["ka", "kb", "kc", "kd"]
    assert sorted(gates_of[2] + gates_of[3]) == ["ka", "kb", "kc", "kd"]


def test_a_weight_is_so_many_turns(desk: Desk) -> None:
    declare(desk, key="k")
    behind(desk, *["ka"] * 20, *["kb"] * 20)
    rows = look(desk, 8, weights={"task": {"ka": 3.0}})
    taken = [row.gate for row in rows if isinstance(row, Taken)]
    assert sorted(taken) == ["ka"] * 6 + ["kb"] * 2


def test_tasks_and_queues_take_turns(desk: Desk) -> None:
    behind(desk, *"tttttttt")
    behind(desk, *"tt", task="other")
    behind(desk, *"tt", queue="a")
    rows = look(desk, 6, tasks=["task", "other"])
    lanes = [(row.job.queue, row.job.task) for row in rows if isinstance(row, Taken)]
    assert {lane: lanes.count(lane) for lane in lanes} == {
        ("a", "task"): 2, ("default", "other"): 2, ("default", "task"): 2,
    }  # fmt: skip
    rows = look(desk, 1, tasks=["task", "other"], turn="default task")
    assert [row.job.task for row in rows if isinstance(row, Taken)] == ["task"]


def test_many_closed_gates_hide_no_open_one(desk: Desk) -> None:
    declare(desk, key="k", key_concurrency=1)
    behind(desk, *(f"k{n:04}" for n in range(300)))
    assert len(take(desk, 300)) == 300
    behind(desk, *(f"k{n:04}" for n in range(300)))
    (last,) = behind(desk, "kz")
    assert take(desk, 1) == [last]
    rows = look(desk, 1, marks={"default task": "0 k0100"})
    assert waits(rows) == [None]


# -- how often


def test_a_rate_lets_one_start_in_its_time_and_says_when_the_next_may(desk: Desk) -> None:
    declare(desk, pace=Pace(60.0, 1))
    ids = behind(desk, *"ttt")
    assert take(desk) == ids[:1]
    (wait,) = waits(look(desk))
    assert wait is not None
    assert 50 < wait <= 60
    desk.sql("UPDATE {soniq}.gates SET spent_until = spent_until - interval '60 s'")
    assert take(desk) == ids[1:2]


def test_a_burst_may_start_at_once_after_a_rest_and_no_more(desk: Desk) -> None:
    declare(desk, pace=Pace(60.0, 3))
    ids = behind(desk, *"tttttt")
    assert take(desk) == ids[:3]
    assert take(desk) == []
    desk.sql("UPDATE {soniq}.gates SET spent_until = spent_until - interval '121 s'")
    assert take(desk) == ids[3:5]


def test_a_rate_is_of_each_key_if_the_task_says_so(desk: Desk) -> None:
    declare(desk, key="k", pace=Pace(60.0, 2), rate_by_key=True)
    ids = behind(desk, "ka", "ka", "ka", "kb")
    assert take(desk) == [ids[0], ids[1], ids[3]]
    assert take(desk) == []
    (wait,) = waits(look(desk))
    assert wait is not None
    assert 50 < wait <= 60
    behind(desk, "kb")
    assert len(take(desk)) == 1


@pytest.mark.parametrize(("at", "room", "wait"), [(0, 0, 1), (1, 1, 0), (2.5, 2, 0), (9, 3, 0)])
def test_the_rule_of_a_rate(desk: Desk, at: float, room: int, wait: float) -> None:
    """Three at once, one a second: three are spent at moment 0."""
    found = desk.sql(
        """SELECT r.room, r.wait_seconds FROM {soniq}.rate_room(1, 3, to_timestamp(103),
               to_timestamp(100 + %s)) AS r""",
        at,
    )
    assert found == [(room, wait)]


def test_no_rate_lets_more_start_in_any_window_than_it_says(desk: Desk) -> None:
    """Claims at odd moments, by the clock of the database, as the function would see it."""
    pace, burst = 0.6, 5
    spent, starts = 0.0, list[float]()
    for moment in (n * 0.37 for n in range(400)):
        ((room, _),) = desk.sql(
            "SELECT r.room, r.wait_seconds FROM {soniq}.rate_room(%s, %s, to_timestamp(%s), "
            "to_timestamp(%s)) AS r",
            *(pace, burst, spent, moment),
        )
        starts += [moment] * room
        spent = max(spent, moment) + room * pace
    for window in (1.0, 10.0, 60.0):
        most = max(sum(a <= s < a + window for s in starts) for a in starts)
        assert most <= burst + window / pace
    assert len(starts) >= 400 * 0.37 / pace


# -- queues


def test_a_queue_runs_as_many_jobs_as_it_is_allowed(desk: Desk) -> None:
    desk.sql("INSERT INTO {soniq}.queues (name, concurrency) VALUES ('default', 2)")
    ids = [desk.enqueue() for _ in range(3)]
    assert desk.claim(WORKER) == []
    assert desk.ask(claims.claim(WORKER, {"default": 9, "a": 9}, ["task"])) == []
    assert take(desk) == ids[:2]
    assert take(desk, worker=OTHER) == []
    desk.finish(WORKER, ids[0], 1)
    assert take(desk, worker=OTHER) == ids[2:]


def test_the_limit_of_a_queue_is_of_all_its_jobs(desk: Desk) -> None:
    desk.sql("INSERT INTO {soniq}.queues (name, concurrency) VALUES ('default', 3)")
    behind(desk, *"tt", task="other")
    behind(desk, "ka", "kb")
    desk.enqueue()
    assert len(take(desk, tasks=["task", "other"])) == 3
    assert take(desk, tasks=["task", "other"]) == []


def test_a_rate_of_a_queue_is_of_all_its_jobs(desk: Desk) -> None:
    desk.sql(
        "INSERT INTO {soniq}.queues (name, rate_count, rate_seconds, rate_burst)"
        " VALUES ('default', 60, 3600, 3)"
    )
    behind(desk, *"tt")
    desk.enqueue()
    desk.enqueue()
    assert len(take(desk)) == 3
    assert take(desk) == []
    assert all(wait and 50 < wait <= 60 for wait in waits(look(desk)))


def test_a_claim_of_a_limited_queue_waits_for_nobody(desk: Desk, other: Desk) -> None:
    desk.sql("INSERT INTO {soniq}.queues (name, concurrency) VALUES ('default', 1)")
    desk.enqueue()
    desk.enqueue()
    with desk.connection.transaction():
        assert len(take(desk)) == 1
        assert waits(look(other, worker=OTHER)) == [0.0]
    assert waits(look(other, worker=OTHER)) == [None]


# -- the breaker

BREAKER = CircuitBreaker(failures=2, window=60, pause=30)
OPEN = "UPDATE {soniq}.gates SET closed_until = now() WHERE closed_until IS NOT NULL"


def fail(desk: Desk, *ids: str) -> None:
    """End attempts as failed, the way a worker does."""
    attempts = {str(i): a for i, a in desk.sql("SELECT id, attempt FROM {soniq}.jobs")}
    told = [Told(i, attempts[i], delay=0.0, outcome="failed") for i in ids]
    with desk.connection.transaction():
        desk.ask(gates.failed(WORKER, list(ids)))
        desk.ask(endings.again(WORKER, told))


def test_failures_within_the_window_close_the_gate_for_the_pause(desk: Desk) -> None:
    declare(desk, breaker=BREAKER)
    ids = behind(desk, *"tttt")
    take(desk, 2)
    fail(desk, ids[0])
    desk.sql("UPDATE {soniq}.gates SET failed_at = ARRAY[now() - interval '61 s']")
    fail(desk, ids[1])
    taken = take(desk, 1)
    fail(desk, *taken)
    (wait,) = waits(look(desk))
    assert wait is not None
    assert 25 < wait <= 30


def test_one_job_tries_and_its_success_opens_the_gate(desk: Desk) -> None:
    declare(desk, breaker=BREAKER)
    ids = behind(desk, *"tttt")
    take(desk, 2)
    fail(desk, ids[0], ids[1])
    assert take(desk) == []
    desk.sql(OPEN)
    (probe,) = take(desk)
    assert take(desk) == []
    desk.finish(WORKER, probe, desk.ask(jobs.get(probe)).attempt)
    assert len(take(desk)) == 3


def test_the_failure_of_the_one_that_tries_closes_the_gate_anew(desk: Desk) -> None:
    declare(desk, breaker=BREAKER)
    ids = behind(desk, *"tttt")
    take(desk, 2)
    fail(desk, ids[0], ids[1])
    desk.sql(OPEN)
    (probe,) = take(desk)
    fail(desk, probe)
    (wait,) = waits(look(desk))
    assert wait is not None
    assert 25 < wait <= 30


def test_a_lost_worker_proves_nothing_and_another_job_tries(desk: Desk) -> None:
    declare(desk, breaker=BREAKER)
    ids = behind(desk, *"tttt")
    take(desk, 2)
    fail(desk, ids[0], ids[1])
    desk.sql(OPEN)
    take(desk)
    assert desk.ask(claims.hand_back_forgotten(WORKER, []))
    assert len(take(desk)) == 1
    assert take(desk) == []


def test_a_key_is_closed_by_itself(desk: Desk) -> None:
    declare(desk, key="k", breaker=CircuitBreaker(2, 60, 30, by_key=True))
    ids = behind(desk, "ka", "ka", "ka", "kb", "kb")
    take(desk, 2, marks={})
    running = [str(i) for (i,) in desk.sql("SELECT id FROM {soniq}.jobs WHERE gate = 'ka'")]
    taken = [i for i in running if desk.state(i) == "processing"]
    fail(desk, *taken)
    fail(desk, *[i for i in take(desk) if i in ids[:3]][:1])
    desk.sql("UPDATE {soniq}.jobs SET state = 'queued', worker_id = NULL")
    assert set(take(desk)) == set(ids[3:])
    desk.sql(OPEN)
    assert len(take(desk)) == 1


def test_what_is_stopped_is_told(desk: Desk) -> None:
    declare(desk, key="k", breaker=CircuitBreaker(1, 60, 30, by_key=True))
    ids = behind(desk, "ka", "kb")
    assert desk.ask(gates.stopped()) == []
    take(desk)
    fail(desk, ids[1])
    (told,) = desk.ask(gates.stopped())
    assert (told["task"], told["key"], told["tried_with"]) == ("task", "b", None)
    assert 25 < told["seconds"] <= 30


def test_keys_of_which_nothing_is_to_be_remembered_are_forgotten(desk: Desk) -> None:
    declare(desk, key="k", pace=Pace(0.001, 1), rate_by_key=True)
    behind(desk, "ka", "kb")
    take(desk)
    assert desk.ask(gates.prune()) == []
    desk.sql("UPDATE {soniq}.gates SET spent_until = now() - interval '1 h' WHERE key = 'ka'")
    assert desk.ask(gates.prune()) == ["ka"]
    assert desk.value("SELECT count(*) FROM {soniq}.gates") == 2
