"""Unique jobs, statement by statement: who holds a key, and what an enqueue of it does then."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from soniq.errors import DuplicateJob, PayloadTooLarge
from soniq.job.record import JobStatus, NewJob
from soniq.job.unique import STATES, Enqueued, Unique
from soniq.store import bulk, dead_letters, endings, jobs, keyed, keys
from soniq.store.endings import Told

from .desk import Desk, new_job

WAITING = ("scheduled", "queued")
WORKER = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"


@pytest.fixture
def database_url(emptied_database: str) -> str:
    return emptied_database


def unique_job(key: str | None = "k", *, args: Any = None, **changes: Any) -> NewJob:
    """Describe a job with a key; options of its rule go by the names of `Unique`."""
    rule = {
        n: changes.pop(n)
        for n in ("states", "seconds", "conflict", "merge", "limit")
        if n in changes
    }
    unique = Unique(key, **{"states": STATES, "seconds": None, "conflict": "skip", **rule})
    return new_job(unique=unique, args=json.dumps(args or {}), **changes)


def put(desk: Desk, *given: NewJob, notify: str = "off") -> Enqueued:
    """Enqueue jobs with keys."""
    made: Enqueued = desk.ask(keys.enqueue_many(given, notify))
    return made


def holders(desk: Desk, key: str = "k:k") -> list[str]:
    found = desk.sql("SELECT CAST(holders AS text[]) FROM {soniq}.keys WHERE key = %s", key)
    return found[0][0] if found else []


def args(desk: Desk, job_id: str) -> Any:
    return desk.ask(jobs.get(job_id)).args


def count(desk: Desk) -> int:
    return int(desk.value("SELECT count(*) FROM {soniq}.jobs"))


# -- one live job for a key


@pytest.mark.parametrize("key", [None, "k"])
def test_a_second_job_of_a_key_is_the_first(desk: Desk, key: str | None) -> None:
    (first,) = put(desk, unique_job(key, args={"a": 1}))
    again = put(desk, unique_job(key, args={"a": 1}))
    assert (again, again.outcomes) == ([first], ["existing"])
    assert count(desk) == 1


def test_other_arguments_another_key_and_another_task_are_no_duplicates(desk: Desk) -> None:
    made = put(
        desk,
        unique_job(None, args={"a": 1}),
        unique_job(None, args={"a": 2}),
        unique_job(None, args={"a": 1}, task="other"),
        unique_job("k", args={"a": 1}),
        unique_job("K", args={"a": 1}),
        unique_job("k", args={"a": 1}, task="other"),
    )
    assert made.outcomes == ["enqueued"] * 6


def test_a_key_is_told_from_the_hash_of_arguments_that_looks_like_it(desk: Desk) -> None:
    put(desk, unique_job(None, args={"a": 1}))
    ((stored,),) = desk.sql("SELECT key FROM {soniq}.keys")
    assert put(desk, unique_job(stored), unique_job(stored[2:])).outcomes == ["enqueued"] * 2


def test_the_order_of_arguments_and_the_queue_do_not_matter(desk: Desk) -> None:
    put(desk, unique_job(None, args={"a": 1, "b": [1.5, "é"]}))
    (again,) = put(desk, unique_job(None, args={"b": [1.5, "é"], "a": 1}, queue="q")).outcomes
    assert again == "existing"


def end_done(desk: Desk, job_id: str) -> None:
    desk.claim(WORKER)
    assert desk.finish(WORKER, job_id, 1) == [job_id]


def end_dead(desk: Desk, job_id: str) -> None:
    desk.claim(WORKER)
    assert desk.ask(endings.bury(WORKER, [Told(job_id, 1, reason="why")])) == [job_id]


def end_cancelled(desk: Desk, job_id: str) -> None:
    assert desk.ask(jobs.cancel(job_id, "off"))


def end_deleted(desk: Desk, job_id: str) -> None:
    assert desk.ask(jobs.delete(job_id, "off"))


ENDS: list[Callable[[Desk, str], None]] = [end_done, end_dead, end_cancelled, end_deleted]


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_a_job_frees_its_key_at_once(
    desk: Desk, end: Callable[[Desk, str], None]
) -> None:
    (first,) = put(desk, unique_job())
    end(desk, first)
    (second,) = made = put(desk, unique_job())
    assert made.outcomes == ["enqueued"]
    assert holders(desk) == [second]
    assert put(desk, unique_job()) == [second]


@pytest.mark.parametrize("end", ENDS)
def test_unique_for_holds_the_key_whatever_becomes_of_the_job(
    desk: Desk, end: Callable[[Desk, str], None]
) -> None:
    (first,) = put(desk, unique_job(seconds=3600.0))
    end(desk, first)
    for conflict in ("skip", "replace"):
        again = put(desk, unique_job(conflict=conflict, states=WAITING))
        assert (again, again.outcomes) == ([first], ["existing"])
    with pytest.raises(DuplicateJob) as refused:
        put(desk, unique_job(conflict="raise"))
    assert refused.value.job_id == first
    desk.sql("UPDATE {soniq}.keys SET until = statement_timestamp()")
    assert put(desk, unique_job()).outcomes == ["enqueued"]
    assert desk.sql("SELECT until FROM {soniq}.keys") == [(None,)]


def test_unique_for_is_reckoned_from_the_enqueue_by_the_servers_clock(desk: Desk) -> None:
    put(desk, unique_job(seconds=60.0, due=3600.0))
    held = "SELECT extract(epoch FROM k.until - j.created_at) FROM {soniq}.keys k, {soniq}.jobs j"
    assert float(desk.value(held)) == 60.0


def test_a_job_holds_its_key_only_in_the_states_that_the_next_one_minds(desk: Desk) -> None:
    (first,) = put(desk, unique_job())
    assert put(desk, unique_job(states=("processing",))).outcomes == ["enqueued"]
    desk.sql("DELETE FROM {soniq}.jobs WHERE id <> %s", first)
    desk.claim(WORKER)
    assert put(desk, unique_job()) == [first]
    (second,) = waiting = put(desk, unique_job(states=WAITING))
    assert waiting.outcomes == ["enqueued"]
    assert holders(desk) == [first, second]
    assert put(desk, unique_job(states=WAITING)) == [second]
    assert put(desk, unique_job()) == [second]  # what waits rather than what runs
    assert desk.finish(WORKER, first, 1) == [first]
    assert put(desk, unique_job(states=("processing",))).outcomes == ["enqueued"]
    assert holders(desk)[0] == second


def test_a_scheduled_job_and_one_that_is_retried_hold_their_keys(desk: Desk) -> None:
    (first,) = put(desk, unique_job(due=3600.0))
    assert put(desk, unique_job(due=5.0)) == [first]
    assert desk.ask(jobs.retry(first, "off")) == first
    desk.claim(WORKER)
    assert desk.ask(endings.again(WORKER, [Told(first, 1, delay=60.0, outcome="failed")]))
    assert put(desk, unique_job(states=("scheduled",))) == [first]


def test_a_job_that_is_run_again_after_its_end_has_no_key(desk: Desk) -> None:
    (done,) = put(desk, unique_job())
    end_done(desk, done)
    (dead,) = put(desk, unique_job())
    end_dead(desk, dead)
    copies = {desk.ask(jobs.retry(done, "off")), desk.ask(dead_letters.replay(dead, "off"))}
    assert count(desk) == 2
    (new,) = put(desk, unique_job())
    assert new not in copies
    assert put(desk, unique_job()) == [new]


# -- what becomes of the other


def test_raise_tells_the_job_and_stores_nothing(desk: Desk) -> None:
    (first,) = put(desk, unique_job())
    before = desk.everything()
    with pytest.raises(DuplicateJob, match=f"Job {first} of task has the key 'k'") as refused:
        put(desk, unique_job(conflict="raise"))
    assert refused.value.job_id == first
    assert desk.everything() == before


def test_replace_gives_a_waiting_job_the_arguments_the_moment_and_the_priority(desk: Desk) -> None:
    (first,) = put(desk, unique_job(args={"a": 1}, due=3600.0, queue="q", max_attempts=2))
    before = desk.ask(jobs.get(first))
    again = put(
        desk,
        unique_job(args={"a": 2}, priority=7, conflict="replace", queue="p", tags=("x",)),
    )
    assert (again, again.outcomes) == ([first], ["replaced"])
    job = desk.ask(jobs.get(first))
    assert (job.args, job.priority, job.status) == ({"a": 2}, 7, JobStatus.QUEUED)
    assert job.scheduled_at < before.scheduled_at
    same = ("queue", "max_attempts", "tags", "created_at", "attempt")
    assert [job[name] for name in same] == [before[name] for name in same]
    put(desk, unique_job(args={"a": 3}, due=60.0, conflict="replace"))
    later = desk.ask(jobs.get(first))
    assert (later.args, later.status) == ({"a": 3}, JobStatus.SCHEDULED)


def test_replace_leaves_a_running_job_alone(desk: Desk) -> None:
    """An upsert once set a running job back to waiting, elsewhere: it ran twice at a time."""
    (first,) = put(desk, unique_job(args={"a": 1}))
    desk.claim(WORKER)
    before = desk.everything()
    again = put(desk, unique_job(args={"a": 2}, conflict="replace"))
    assert (again, again.outcomes) == ([first], ["existing"])
    assert desk.everything() == before
    waits = put(desk, unique_job(args={"a": 2}, conflict="replace", states=WAITING))
    assert waits.outcomes == ["enqueued"]
    assert put(desk, unique_job(args={"a": 3}, conflict="replace", states=WAITING)) == waits
    assert (args(desk, first), args(desk, waits[0])) == ({"a": 1}, {"a": 3})
    assert desk.finish(WORKER, first, 1) == [first]


def test_a_replaced_job_is_no_longer_asked_to_stop(desk: Desk) -> None:
    (first,) = put(desk, unique_job())
    desk.claim(WORKER)
    assert desk.ask(jobs.cancel(first, "off"))
    desk.ask(endings.release(WORKER, [Told(first, 1)], "off"))
    assert put(desk, unique_job(conflict="replace")).outcomes == ["replaced"]
    assert desk.ask(jobs.get(first)).cancel_requested is False


def test_replacing_does_not_prolong_unique_for(desk: Desk) -> None:
    put(desk, unique_job(seconds=60.0))
    before = desk.sql("SELECT until, holders FROM {soniq}.keys")
    assert put(desk, unique_job(seconds=3600.0, conflict="replace")).outcomes == ["replaced"]
    assert desk.sql("SELECT until, holders FROM {soniq}.keys") == before


MERGED: list[tuple[Any, Any, Any]] = [
    ({"ids": [1], "n": 1}, {"ids": [2, 3], "n": 2.5}, {"ids": [1, 2, 3], "n": 3.5}),
    ({"ids": [1], "n": 0.1}, {"ids": [], "n": 0.2}, {"ids": [1], "n": 0.3}),
    ({"ids": [1], "n": 1}, {}, {"ids": [1], "n": 1}),
    ({}, {"ids": [1], "n": 1}, {"ids": [1], "n": 1}),
    ({"ids": None, "n": None}, {"ids": [1], "n": 1}, {"ids": [1], "n": 1}),
    ({"ids": "text", "n": "1"}, {"ids": [1], "n": 1}, {"ids": [1], "n": 1}),
    ({"ids": [{"a": [1]}], "n": 1}, {"ids": [{"a": [2]}], "n": -3},
     {"ids": [{"a": [1]}, {"a": [2]}], "n": -2}),
    ({"other": 1}, {"other": 2}, {"other": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("older", "newer", "both"), MERGED)
def test_arguments_are_appended_and_summed(desk: Desk, older: Any, newer: Any, both: Any) -> None:
    merge = (("ids", "append"), ("n", "sum"))
    (first,) = put(desk, unique_job(args=older))
    assert put(desk, unique_job(args=newer, conflict="replace", merge=merge)) == [first]
    assert args(desk, first) == both


def test_a_function_merges_what_the_job_has_with_what_comes(desk: Desk) -> None:
    merge = (("ids", lambda older, newer: sorted({*older, *newer})), ("n", "sum"))
    given = [{"ids": [3], "n": 1}, {"ids": [1, 3], "n": 1}, {"ids": [2]}]
    for each in given:
        put(desk, unique_job(args=each, conflict="replace", merge=merge))
    ((_, found),) = desk.sql("SELECT id, args FROM {soniq}.jobs")
    assert found == {"ids": [1, 2, 3], "n": 2}
    made = put(desk, *(unique_job("b", args=e, conflict="replace", merge=merge) for e in given))
    assert made.outcomes == ["enqueued", "replaced", "replaced"]
    assert args(desk, made[0]) == {"ids": [1, 2, 3], "n": 2}


def test_a_function_that_fails_leaves_the_job_as_it_was(desk: Desk) -> None:
    put(desk, unique_job(args={"a": 1}))
    before = desk.everything()
    merge = (("a", lambda older, newer: older / 0),)
    with pytest.raises(ZeroDivisionError):
        put(desk, unique_job(args={"a": 2}, conflict="replace", merge=merge))
    assert desk.everything() == before


def test_of_many_that_functions_merge_all_are_stored_or_none(desk: Desk) -> None:
    """In a transaction of the caller's, who went on, those before the one that failed stayed."""
    put(desk, unique_job("b", args={"n": 1}))
    before = desk.everything()
    desk.sql("BEGIN")
    merge = {"conflict": "replace", "merge": (("n", lambda older, newer: older / newer),)}
    first = unique_job("a", args={"n": 1}, **merge)
    with pytest.raises(ZeroDivisionError):
        put(desk, first, unique_job("b", args={"n": 0}, **merge))
    with pytest.raises(DuplicateJob):
        put(desk, first, unique_job("b", conflict="raise"))
    desk.sql("DELETE FROM {soniq}.keys WHERE holders = '{}'")
    assert desk.everything() == before
    made = put(desk, first, unique_job("b", args={"n": 2}, **merge))
    desk.sql("COMMIT")
    assert made.outcomes == ["enqueued", "replaced"]
    assert args(desk, made[1]) == {"n": 0.5}


@pytest.mark.parametrize("how", ["append", lambda older, newer: older + newer])
def test_merged_arguments_stay_within_the_limit(desk: Desk, how: Any) -> None:
    long, merge = {"ids": ["x" * 40]}, (("ids", how),)
    put(desk, unique_job(args=long))
    before = desk.everything()
    limit = {"conflict": "replace", "merge": merge, "limit": 80}
    with pytest.raises(PayloadTooLarge, match="80"):
        put(desk, unique_job(args=long, **limit))
    assert desk.everything() == before
    with pytest.raises(PayloadTooLarge, match="80"):
        put(desk, unique_job("new"), unique_job(args=long, **limit))
    assert desk.everything() == before


# -- many at once


def test_many_jobs_have_an_outcome_each_in_their_order(desk: Desk) -> None:
    (there,) = put(desk, unique_job("b", args={"n": 0}))
    made = desk.ask(
        bulk.enqueue_many(
            [
                unique_job("a"),
                unique_job("b"),
                new_job(),
                unique_job("a"),
                unique_job("b", args={"n": 1}, conflict="replace"),
                unique_job("a", task="other"),
            ],
            (),
            "off",
        )
    )
    assert made.outcomes == ["enqueued", "existing", "enqueued", "existing", "replaced", "enqueued"]
    assert made == [made[0], there, made[2], made[0], there, made[5]]
    assert args(desk, there) == {"n": 1}
    assert count(desk) == 4


def test_with_raise_many_jobs_are_stored_all_or_none(desk: Desk) -> None:
    (there,) = put(desk, unique_job("b", args={"n": 1}))
    before = desk.everything()
    desk.sql("BEGIN")
    for taken in (
        [unique_job("a"), unique_job("b", conflict="raise"), unique_job("c")],
        [unique_job("b", conflict="replace"), unique_job("x"), unique_job("x", conflict="raise")],
    ):
        with pytest.raises(DuplicateJob, match=r"Job [12] of the list: ") as refused:
            put(desk, *taken)
        assert desk.everything() == before
    assert refused.value.job_id != there
    desk.sql("COMMIT")
    fresh = put(desk, unique_job("a", conflict="raise"), unique_job("c", conflict="raise"))
    assert fresh.outcomes == ["enqueued"] * 2


def test_many_of_one_kind_have_an_outcome_each_in_their_order(desk: Desk) -> None:
    (there,) = put(desk, unique_job("b"))
    asked = [unique_job(key) for key in "zbazyb"]
    made = put(desk, *asked)
    assert made.outcomes == ["enqueued", "existing", "enqueued", "existing", "enqueued", "existing"]
    new = [asked[0].id, asked[2].id, asked[4].id]
    assert made == [new[0], there, new[1], new[0], new[2], there]
    assert desk.sql("SELECT CAST(id AS text) FROM {soniq}.jobs ORDER BY id") == [
        (each,) for each in sorted([there, *new])
    ]
    many = put(desk, *(unique_job(None, args={"n": n % 7000}) for n in range(10_000)))
    assert many.outcomes == ["enqueued"] * 7000 + ["existing"] * 3000
    assert many[7000:] == many[:3000]


def test_a_job_that_runs_keeps_its_key_beside_those_of_a_bulk(desk: Desk) -> None:
    (runs, dead) = put(desk, unique_job("a"), unique_job("b"))
    desk.claim(WORKER)
    desk.ask(jobs.delete(dead, "off"))
    asked = [unique_job(key, states=WAITING) for key in "ba"]
    assert put(desk, *asked).outcomes == ["enqueued"] * 2
    assert holders(desk, "k:a") == [runs, asked[1].id]
    assert holders(desk, "k:b") == [asked[0].id]


def test_many_of_one_kind_are_stored_all_or_none_with_raise(desk: Desk) -> None:
    (there,) = put(desk, unique_job("b"))
    before = desk.everything()
    desk.sql("BEGIN")
    for keys_of, place in (("abc", 1), ("aca", 2), ("caab", 2)):
        asked = [unique_job(key, conflict="raise") for key in keys_of]
        with pytest.raises(DuplicateJob, match=f"Job {place} of the list: ") as refused:
            put(desk, *asked)
        assert refused.value.job_id == (there if place == 1 else asked[keys_of.index("a")].id)
        assert desk.everything() == before
    desk.sql("COMMIT")
    assert desk.everything() == before


def test_no_jobs_are_no_jobs(desk: Desk) -> None:
    assert desk.ask(bulk.enqueue_many([], (), "off")) == []
    assert put(desk) == []


def test_jobs_that_are_too_large_together_are_refused(desk: Desk) -> None:
    large = "x" * (keyed.MOST_BYTES // 2)
    with pytest.raises(PayloadTooLarge, match="several parts"):
        put(desk, *(unique_job("k", args={"a": large}) for _ in range(2)))
    assert count(desk) == 0


def test_every_field_of_a_job_is_stored_as_without_a_key(desk: Desk) -> None:
    """The function once written down the columns that there were then: later ones fall to NULL."""
    given: dict[str, Any] = {
        "queue": "q", "priority": 3, "due": 60.0, "max_attempts": 2, "timeout": 1.5,
        "tags": ("a", 'b "c"'), "trace": '{"traceparent": "00-1"}',
    }  # fmt: skip
    plain = desk.enqueue(**given)
    many = put(desk, unique_job("a", **given), unique_job("b", **given))
    (one,) = put(desk, unique_job("c", **given))
    row = """
        SELECT to_jsonb(j) - CAST('{id,scheduled_at,created_at}' AS text[]),
            scheduled_at - created_at FROM {soniq}.jobs j WHERE id = %s"""
    rows = [desk.sql(row, each) for each in (plain, one, *many)]
    assert rows[1:] == rows[:1] * 3


# -- notifications


def test_only_what_is_new_for_a_worker_is_told(desk: Desk, ear: Callable[[], list[str]]) -> None:
    put(desk, unique_job(), notify="always")
    assert ear() == ["q:default"]
    put(desk, unique_job(), notify="always")
    put(desk, unique_job(conflict="replace"), notify="always")
    put(desk, unique_job("later", due=3600.0), notify="always")
    assert ear() == []
    put(desk, unique_job("later", conflict="replace"), notify="always")
    assert ear() == ["q:default"]
    put(desk, unique_job("later", conflict="replace", due=2.0), notify="always")
    assert ear() == ["q:*"]
    put(desk, unique_job("a", queue="x"), unique_job("b", queue="x"), notify="always")
    put(desk, unique_job("c", queue="x"), unique_job("d", queue="y"), notify="always")
    assert ear() == ["q:x", "q:*"]


# -- keys that nobody holds


def prune(desk: Desk) -> keys.Pruned:
    (pruned,) = desk.ask(keys.prune(keys.START))
    assert isinstance(pruned, keys.Pruned)
    return pruned


def test_keys_that_nobody_holds_are_forgotten_and_no_others(desk: Desk) -> None:
    put(desk, *(unique_job(key) for key in ("live", "dead", "running")))
    put(desk, unique_job("kept", seconds=60.0), unique_job("over", seconds=60.0))
    over = "UPDATE {soniq}.keys SET until = statement_timestamp() WHERE key = 'k:over'"
    desk.sql(over)
    for key in ("dead", "kept", "over"):
        desk.ask(jobs.delete(holders(desk, f"k:{key}")[0], "off"))
    desk.sql(
        "UPDATE {soniq}.jobs SET scheduled_at = '2001-01-01' WHERE id = %s",
        holders(desk, "k:running")[0],
    )
    desk.claim(WORKER)
    assert prune(desk) == ("task", "k:running", 5, 2)
    left = desk.sql("SELECT key FROM {soniq}.keys ORDER BY key")
    assert left == [("k:kept",), ("k:live",), ("k:running",)]


def test_pruning_goes_on_where_it_came_to(desk: Desk) -> None:
    desk.sql(
        "INSERT INTO {soniq}.keys (task, key) "
        "SELECT 't' || n % 3, 'k:' || n FROM generate_series(1, 2500) AS n"
    )
    seen, pages = keys.START, []
    while not seen.is_last:
        (seen,) = desk.ask(keys.prune(seen))
        pages.append((seen.looked, seen.gone))
    assert pages == [(1000, 1000), (1000, 1000), (500, 500)]
    assert desk.value("SELECT count(*) FROM {soniq}.keys") == 0


def test_a_session_goes_on_when_a_migration_gives_jobs_another_column(desk: Desk) -> None:
    """What is stored is a row of the table as it is then, and a session keeps its plans."""
    put(desk, unique_job("a"), unique_job("b"))
    for _ in range(10):
        put(desk, unique_job("c"))
    desk.sql("ALTER TABLE {soniq}.jobs ADD COLUMN later text")
    made = put(desk, unique_job("d"), unique_job("e"))
    (one,) = put(desk, unique_job("f"))
    assert made.outcomes == ["enqueued"] * 2
    assert put(desk, unique_job("f", conflict="replace")) == [one]


READ = """
    SELECT sum(seq_scan), sum(coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables
    WHERE schemaname = 'soniq' AND relname IN ('jobs', 'keys')"""


def test_nothing_reads_a_table_whole_though_its_plan_is_from_when_it_was_empty(desk: Desk) -> None:
    dead = {"conflict": "replace", "merge": (("n", "sum"),)}
    desk.sql("VACUUM ANALYZE {soniq}.jobs, {soniq}.keys")
    for _ in range(10):  # so that plans are kept
        made = put(desk, unique_job("a"), unique_job("b"))
        put(desk, unique_job("a", args={"n": 1}, **dead))
        for job_id in made:
            desk.ask(jobs.delete(job_id, "off"))
        prune(desk)
    desk.sql(
        "WITH job AS (INSERT INTO {soniq}.jobs (id, task, args) "
        "SELECT {soniq}.uuid7(), 'task', '{\"n\": 1}' FROM generate_series(1, 50000) RETURNING id) "
        "INSERT INTO {soniq}.keys (task, key, holders) "
        "SELECT 'task', 'k:' || id, ARRAY[id] FROM job"
    )
    held = str(desk.value("SELECT id FROM {soniq}.jobs LIMIT 1"))
    reads: list[tuple[Callable[[], Any], int]] = [
        (lambda: put(desk, unique_job("new")), 5),
        (lambda: put(desk, unique_job(held)), 5),
        (lambda: put(desk, unique_job(held, args={"n": 2}, **dead)), 10),
        (lambda: put(desk, unique_job("x"), unique_job(held), unique_job("y")), 20),
        (lambda: prune(desk), 3 * keys.PAGE),
    ]
    for ask, most in reads:
        desk.sql("BEGIN")
        ((scans, fetched),) = desk.sql(READ)
        ask()
        ((scans_then, fetched_then),) = desk.sql(READ)
        assert scans_then == scans
        assert fetched_then - fetched <= most
        desk.sql("COMMIT")
