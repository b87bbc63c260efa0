"""What once went wrong at gates: each test tells the story of a fault."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from soniq import SoniqSync
from soniq.job.limits import CircuitBreaker, Limits, Pace
from soniq.store import endings, gates, jobs, queues, workers
from soniq.store.endings import Told
from soniq.store.gates import Looked, Mended, Opened, Taken

from .desk import Desk

WORKER = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"
OTHER = "0b0d3c6e-64b5-4d0b-a7a4-6c4f6a5dd0ff"
BREAKER = CircuitBreaker(failures=1, window=60, pause=30)


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def declare(desk: Desk, task: str = "task", **limits: Any) -> None:
    desk.ask(gates.declare({task: Limits(**limits)}))


def look(desk: Desk, number: int = 100, **more: Any) -> list[Any]:
    given = {"tasks": ["task"], "worker": WORKER, "slots": number, "most_bytes": 10**6, **more}
    worker, tasks = given.pop("worker"), given.pop("tasks")
    rows: list[Any] = desk.ask(gates.claim(worker, [], tasks, number, **given))
    return rows


def taken(rows: list[Any]) -> list[Taken]:
    return [row for row in rows if isinstance(row, Taken)]


def fail(desk: Desk, *ids: str) -> None:
    """End attempts as failed and out of attempts, the way a worker does."""
    with desk.connection.transaction():
        desk.ask(gates.failed(WORKER, list(ids)))
        desk.ask(endings.bury(WORKER, [Told(i, 1, reason="r", outcome="failed") for i in ids]))


# -- rates


@pytest.mark.parametrize("by_key", [True, False])
def test_a_rate_that_was_made_quicker_is_obeyed_at_once(desk: Desk, by_key: bool) -> None:
    """One a day was spent, and the job of the next release, with 100 a second, waited for a day."""
    limits = {"key": "k", "rate_by_key": by_key}
    declare(desk, pace=Pace(86_400.0, 1), **limits)
    for _ in range(20):
        desk.enqueue(gate="ka")
    assert len(taken(look(desk))) == 1
    declare(desk, pace=Pace(0.01, 2), **limits)
    assert len(taken(look(desk))) == 2
    assert len(taken(look(desk))) <= 2
    spent = desk.value("SELECT max(spent_until - now()) < interval '1 s' FROM {soniq}.gates")
    assert spent is True


def test_a_clock_that_was_set_back_stops_no_rate(desk: Desk) -> None:
    """What was spent by the clock before lay an hour ahead, and for an hour nothing started."""
    declare(desk, pace=Pace(1.0, 2))
    for _ in range(9):
        desk.enqueue(gate="t")
    look(desk)
    desk.sql("UPDATE {soniq}.gates SET spent_until = spent_until + interval '1 hour'")
    assert len(taken(look(desk))) == 2
    assert taken(look(desk)) == []
    desk.sql("UPDATE {soniq}.gates SET spent_until = spent_until + interval '0.5 s'")
    assert taken(look(desk)) == []  # a small step is waited for


def test_a_queue_whose_rate_was_made_quicker_is_not_held_by_the_old_one(desk: Desk) -> None:
    desk.sql(
        "INSERT INTO {soniq}.queues (name, rate_count, rate_seconds) VALUES ('default', 1, 86400)"
    )
    for _ in range(9):
        desk.enqueue()
    assert len(taken(look(desk))) == 1
    assert taken(look(desk)) == []
    desk.sql("UPDATE {soniq}.queues SET rate_count = 100, rate_seconds = 1, rate_burst = 2")
    assert len(taken(look(desk))) == 2
    spent = desk.value("SELECT max(spent_until - now()) < interval '1 s' FROM {soniq}.gates")
    assert spent is True


def test_of_what_has_a_rate_no_more_is_taken_than_can_start(desk: Desk) -> None:
    """Claimed ahead, jobs waited for slots, and then started together: more than the rate lets."""
    declare(desk, pace=Pace(1.0, 50))
    for _ in range(60):
        desk.enqueue(gate="t")
    assert len(taken(look(desk, 40, slots=3))) == 3
    assert len(taken(look(desk, 40, slots=0))) == 1  # or what keeps all slots busy keeps it out
    declare(desk, pace=Pace(0.01, 50))
    assert len(taken(look(desk, 40, slots=3))) == 10  # what comes in a tenth of a second
    declare(desk)
    assert len(taken(look(desk, 40, slots=3))) == 40


# -- turns


def rounds(desk: Desk, number: int, times: int, weights: Any, **more: Any) -> Counter[str | None]:
    """Claim again and again, going on where the last claim ended; count jobs by key."""
    came: Counter[str | None] = Counter()
    marks: dict[str, str] = {}
    for _ in range(times):
        rows = look(desk, number, marks=marks, weights={"task": weights} if weights else {}, **more)
        came.update(row.gate for row in taken(rows))
        marks = {row.lane: row.mark for row in rows if isinstance(row, Looked)}
    return came


def test_a_weight_counts_where_jobs_are_taken_one_by_one(desk: Desk) -> None:
    """A claim of one job gave each key one in turn, whatever its weight."""
    declare(desk, key="k")
    for _ in range(60):
        for key in ("ka", "kb", "kc"):
            desk.enqueue(gate=key)
    assert rounds(desk, 1, 50, {"kb": 3.0}) == {"ka": 10, "kb": 30, "kc": 10}


@pytest.mark.parametrize("number", [2, 7, 10])
def test_a_heavy_key_leaves_their_turns_to_the_others(desk: Desk, number: int) -> None:
    """With more weight than there were slots, it took those of the keys behind it, for ever."""
    declare(desk, key="k")
    for key in "abcdefghij":
        for _ in range(110):
            desk.enqueue(gate=f"k{key}")
    came = rounds(desk, number, 190 // number, {"ka": 10.0})
    assert came.pop("ka") == pytest.approx(100, abs=5)
    assert set(came) == {f"k{key}" for key in "bcdefghij"}
    assert max(came.values()) - min(came.values()) <= 1


@pytest.mark.parametrize("number", [3, 10])
def test_the_last_key_gets_no_more_than_the_others(desk: Desk, number: int) -> None:
    """Of eleven keys ten had a job each, and the last had all ten of the next claim."""
    declare(desk, key="k")
    for key in "abcdefghijk":
        for _ in range(60):
            desk.enqueue(gate=f"k{key}")
    came = rounds(desk, number, 330 // number, None)
    assert set(came.values()) == {30}


def test_a_key_with_less_weight_than_one_gets_less(desk: Desk) -> None:
    declare(desk, key="k")
    for _ in range(60):
        for key in ("ka", "kb"):
            desk.enqueue(gate=key)
    came = rounds(desk, 30, 1, {"ka": 0.25})
    assert came == {"ka": 6, "kb": 24}


def test_turns_are_in_the_order_of_keys_whatever_that_of_the_database_is(
    server_url: str, keeper: psycopg.Connection[Any], worker_name: str
) -> None:
    """Where 'a' comes before 'B', a round that began anew passed keys over."""
    name = f"soniq_test_{worker_name}_icu"
    try:
        keeper.execute(
            f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8' "
            "LOCALE_PROVIDER icu ICU_LOCALE 'en'".encode()
        )
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError):
        pytest.skip("this server has no databases with an order of ICU's")
    url = make_conninfo(server_url, dbname=name)
    try:
        with SoniqSync(url) as eq:
            eq.setup()
        desk = Desk(url)
        declare(desk, key="k")
        for _ in range(30):
            for key in ("kA", "kB", "ka", "kb"):
                desk.enqueue(gate=key)
        assert rounds(desk, 3, 20, None) == dict.fromkeys(("kA", "kB", "ka", "kb"), 15)
        desk.connection.close()
    finally:
        keeper.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


# -- locks


def test_failures_and_claims_of_the_same_keys_do_not_lock_each_other_out(
    desk: Desk, other: Desk
) -> None:
    """A claim noted its keys in any order while failures noted theirs: each had one of two."""
    declare(
        desk, key="k", pace=Pace(0.001, 1), rate_by_key=True,
        breaker=CircuitBreaker(5, 60, 30, by_key=True),
    )  # fmt: skip
    ids = [desk.enqueue(gate=gate) for gate in ("ka", "kb")]
    assert len(taken(look(desk))) == 2
    for gate in ("ka", "kb"):
        desk.enqueue(gate=gate)
    with ThreadPoolExecutor(1) as threads, other.connection.transaction():
        other.ask(gates.failed(WORKER, ids[1:]))  # it has 'kb', and will want 'ka'
        claim = threads.submit(look, desk)
        rows = claim.result(30)  # it does not wait
        assert [row.wait_seconds for row in rows] == [0.0]
        other.ask(gates.failed(WORKER, ids[:1]))


def test_releases_that_declare_other_limits_at_once_do_not_lock_each_other_out(
    desk: Desk, other: Desk
) -> None:
    """One took z's limit away and gave one to b and c; the other took c's and gave one to z."""
    one, two = Limits(concurrency=1), Limits(concurrency=2)
    desk.ask(gates.declare({"b": one, "c": one, "z": one}))
    third = desk.another()
    with ThreadPoolExecutor(2) as threads:
        with third.connection.transaction():
            third.sql("SELECT FROM {soniq}.gates WHERE task = 'b' FOR UPDATE")
            first = threads.submit(desk.ask, gates.declare({"b": two, "c": two, "z": None}))
            third.until_somebody_waits()
            second = threads.submit(other.ask, gates.declare({"c": None, "z": two}))
            while not second.done() and third.waiting() < 2:
                time.sleep(0.01)
        first.result(30)
        second.result(30)
    third.connection.close()


# -- the breaker


def test_what_failed_and_is_never_asked_for_again_is_forgotten(desk: Desk) -> None:
    """The row of a dead host stayed for ever, and `soniq status` told of it for ever."""
    declare(desk, key="k", breaker=CircuitBreaker(1, 60, 30, by_key=True))
    job_id = desk.enqueue(gate="kdead.example")
    look(desk)
    fail(desk, job_id)
    desk.sql("UPDATE {soniq}.gates SET closed_until = now() - interval '59 min' WHERE key <> ''")
    assert len(desk.ask(gates.stopped())) == 1
    assert desk.ask(gates.prune()) == []
    desk.sql(
        "UPDATE {soniq}.gates SET closed_until = now() - interval '25 h', "
        "failed_at = ARRAY[now() - interval '25 h'] WHERE key <> ''"
    )
    assert desk.ask(gates.prune()) == ["kdead.example"]


@pytest.mark.parametrize("later", [{}, {"breaker": BREAKER}])
def test_a_breaker_that_is_declared_no_longer_is_not_told_of(desk: Desk, later: Any) -> None:
    declare(desk, key="k", breaker=CircuitBreaker(1, 60, 30, by_key=True))
    job_id = desk.enqueue(gate="ka")
    look(desk)
    fail(desk, job_id)
    assert len(desk.ask(gates.stopped())) == 1
    declare(desk, key="k", **later)
    assert desk.ask(gates.stopped()) == []


@pytest.mark.parametrize("by_key", [True, False])
def test_what_was_tried_well_runs_again_though_no_other_job_waits(desk: Desk, by_key: bool) -> None:
    """Only a claim looked what had become of the job that tried; where none waited, none did."""
    declare(desk, key="k", breaker=CircuitBreaker(1, 60, 30, by_key=by_key))
    first, probe = (desk.enqueue(gate="ka") for _ in range(2))
    look(desk, 1)
    fail(desk, first)
    assert desk.ask(gates.settle()) == [None]
    desk.sql("UPDATE {soniq}.gates SET closed_until = now() WHERE closed_until IS NOT NULL")
    assert len(taken(look(desk))) == 1
    assert desk.ask(gates.settle()) == [None]
    desk.finish(WORKER, probe, 1)
    assert desk.ask(gates.settle()) == [Mended("task", "ka" if by_key else None), None]
    assert desk.ask(gates.settle()) == []
    assert desk.ask(gates.stopped()) == []


@pytest.mark.parametrize("by_key", [True, False])
def test_who_opens_a_breaker_and_who_sees_it_close_is_told_once(desk: Desk, by_key: bool) -> None:
    declare(desk, key="k", breaker=CircuitBreaker(2, 60, 30, by_key=by_key))
    gate = "ka" if by_key else None
    ids = [desk.enqueue(gate="ka") for _ in range(6)]
    look(desk, 4)
    assert desk.ask(gates.failed(WORKER, ids[:1])) == []
    assert desk.ask(gates.failed(WORKER, ids[1:2])) == [Opened("task", gate, 30.0, again=False)]
    assert desk.ask(gates.failed(WORKER, ids[2:3])) == []
    desk.sql("UPDATE {soniq}.gates SET closed_until = now() WHERE closed_until IS NOT NULL")
    (probe,) = taken(look(desk))
    assert desk.ask(gates.failed(WORKER, [probe.job.id])) == [
        Opened("task", gate, 30.0, again=True)
    ]
    desk.sql("UPDATE {soniq}.gates SET closed_until = now() WHERE closed_until IS NOT NULL")
    (probe,) = taken(look(desk))
    desk.finish(WORKER, probe.job.id, 1)
    desk.enqueue(gate="ka")
    assert [row for row in look(desk) if isinstance(row, Mended)] == [Mended("task", gate)]
    assert [row for row in look(desk) if isinstance(row, Mended)] == []


@pytest.mark.parametrize("by_key", [True, False])
def test_a_clock_that_was_set_back_keeps_no_breaker_open(desk: Desk, by_key: bool) -> None:
    """So did a pause that was made shorter: it was over when the longer one was."""
    declare(desk, key="k", breaker=CircuitBreaker(1, 60, 30, by_key=by_key))
    job_id, *_ = (desk.enqueue(gate="ka") for _ in range(3))
    assert len(taken(look(desk, 1))) == 1
    fail(desk, job_id)
    assert taken(look(desk)) == []
    desk.sql("UPDATE {soniq}.gates SET closed_until = closed_until + interval '1 hour'")
    (probe,) = taken(look(desk))
    desk.finish(WORKER, probe.job.id, 1)
    look(desk)
    assert desk.ask(gates.stopped()) == []


def test_a_worker_that_died_with_the_last_attempt_proves_nothing(desk: Desk) -> None:
    """Its job became a dead letter, so it was gone, as one that had gone well."""
    declare(desk, breaker=BREAKER)
    ids = [desk.enqueue(gate="t", max_attempts=1) for _ in range(4)]
    look(desk, 1)
    fail(desk, ids[0])
    desk.sql("UPDATE {soniq}.gates SET closed_until = now()")
    assert len(taken(look(desk))) == 1
    desk.watch_since_an_hour()
    assert [each.fate for each in desk.ask(workers.rescue(30, "off"))] == ["dead_letter"]
    assert len(taken(look(desk))) == 1
    assert taken(look(desk)) == []


# -- in order


def test_a_held_retry_that_is_put_on_for_now_still_goes_first(desk: Desk) -> None:
    """It was queued by the moment it was put on for: behind what it had held."""
    declare(desk, key="k", ordered=True)
    first, _ = (desk.enqueue(gate="oa") for _ in range(2))
    look(desk)
    desk.ask(endings.again(WORKER, [Told(first, 1, delay=60.0, outcome="failed")]))
    assert desk.ask(jobs.reschedule(first, 0.0, "off"))
    assert [row.job.id for row in taken(look(desk))] == [first]


@pytest.mark.parametrize("how", ["cancel", "delete", "purge", "reschedule"])
@pytest.mark.parametrize("gate", ["oa", "ka"])
def test_who_waits_behind_a_held_retry_is_woken_when_it_goes(
    desk: Desk, ear: Callable[[], list[str]], how: str, gate: str
) -> None:
    """An idle worker found out at its next poll; behind others nobody waits."""
    declare(desk, key="k", ordered=gate == "oa")
    first, _ = (desk.enqueue(gate=gate) for _ in range(2))
    look(desk, 1)
    desk.ask(endings.again(WORKER, [Told(first, 1, delay=60.0, outcome="failed")]))
    desk.worker(idle=True)
    ear()
    match how:
        case "cancel":
            assert desk.ask(jobs.cancel(first, "auto"))
        case "delete":
            assert desk.ask(jobs.delete(first, "auto"))
        case "purge":
            assert desk.ask(queues.purge("default", ("scheduled",), None, "auto")) == 1
        case _:
            assert desk.ask(jobs.reschedule(first, 1.0, "auto"))
    assert ear() == (["q:*"] if gate == "oa" or how == "reschedule" else [])
