"""Schedules that are due: each moment is one job's, whoever looks and whatever is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from soniq.db import planner
from soniq.job.record import NewJob, Placement
from soniq.job.schedule import Plan, Rules, Schedule
from soniq.job.timing import Every
from soniq.job.unique import STATES, Unique
from soniq.store import due, schedules
from soniq.store.due import Tick

from .desk import Desk
from .test_explain import executed, nodes, prepare

NOTHING = Tick(0, (), None)


def add(desk: Desk, name: str = "s", every: float = 60, **rules: Any) -> Schedule:
    job = NewJob("", '{"a": 1}', Placement("task", "default", 100, None, 4))
    plan = Plan(name, job, Rules(Every(every), **rules))
    made: Schedule = desk.ask(schedules.add(plan, "off"))
    return made


def past(desk: Desk, seconds: float, name: str = "s") -> datetime:
    """Have the next moment be so many seconds ago, as when the server's clock was put forward."""
    desk.sql(
        """UPDATE {soniq}.schedules SET moment = m.at, next_run = m.at FROM (SELECT
               date_trunc('second', statement_timestamp()) - %s * interval '1 second' AS at) AS m
           WHERE name = %s""",
        seconds,
        name,
    )
    return get(desk, name).moment


def get(desk: Desk, name: str = "s") -> Schedule:
    found: Schedule = desk.ask(schedules.get(name))
    return found


def tick(desk: Desk) -> Tick:
    found: Tick = desk.ask(due.tick("off"))
    return found


def until(fact: Callable[[], Any]) -> None:
    """Wait for what the server does in its own time, such as noticing that a client has gone."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline


def made(desk: Desk) -> list[datetime]:
    return [at for (at,) in desk.sql("SELECT scheduled_at FROM {soniq}.jobs ORDER BY scheduled_at")]


def test_nothing_is_due_before_its_moment(desk: Desk) -> None:
    assert tick(desk) == NOTHING
    add(desk)
    looked = tick(desk)
    assert (looked.due, looked.fired) == (0, ())
    assert looked.next_seconds is not None
    assert 58 < looked.next_seconds <= 60
    assert made(desk) == []


def test_a_moment_is_one_job_and_the_schedule_moves_on(desk: Desk) -> None:
    add(desk)
    moment = past(desk, 5)
    (fired,) = tick(desk).fired
    ((job_id, args, tags, state, at),) = desk.sql(
        "SELECT CAST(id AS text), args, tags, state, scheduled_at FROM {soniq}.jobs"
    )
    assert (args, tags, state, at) == ({"a": 1}, ["schedule:s"], "queued", moment)
    schedule = get(desk)
    assert fired.ids == (job_id,) == (schedule.last_job_id,)
    assert schedule.moment == schedule.next_run == moment + timedelta(seconds=60)
    assert (schedule.last_moment, schedule.runs, schedule.waiting) == (moment, 1, False)
    assert tick(desk).due == 0


def test_what_was_missed_is_made_up_for(desk: Desk) -> None:
    for name, rules in (
        ("one", {}), ("all", {"catch_up": "all", "catch_up_max": 4}), ("skip", {"catch_up": "skip"})
    ):  # fmt: skip
        add(desk, name, **rules)
        past(desk, 600, name)
    tick(desk)
    counts = desk.sql("SELECT tags[1], count(*) FROM {soniq}.jobs GROUP BY 1 ORDER BY 1")
    # Of every minute, one is less than a minute ago.
    assert counts == [("schedule:all", 4), ("schedule:one", 1), ("schedule:skip", 1)]
    assert tick(desk).due == 0


def test_paused_and_retired_ones_are_left_alone(desk: Desk) -> None:
    for name in ("paused", "retired"):
        add(desk, name)
        past(desk, 5, name)
    desk.ask(schedules.pause("paused"))
    desk.sql("UPDATE {soniq}.schedules SET retired_at = now() WHERE name = 'retired'")
    assert tick(desk) == NOTHING


# -- interleavings


def resumed(desk: Desk, steps: Any, answer: object) -> Any:
    """Go on with an operation that was left in the middle, to its end."""
    try:
        step = steps.send(answer)
        while True:
            step = steps.send(desk.ask(iter(step)))
    except StopIteration as ended:
        return ended.value


def test_two_who_read_the_same_moment_make_one_job(desk: Desk, other: Desk) -> None:
    """Each step of one between each two of the other: the second finds another revision."""
    add(desk)
    past(desk, 5)
    slow = due.tick("off")
    rows = desk.ask(slow.send(None))
    assert len(tick(other).fired) == 1
    assert resumed(desk, slow, rows).fired == ()
    assert len(made(desk)) == 1


def test_who_finds_a_moment_locked_leaves_it_and_does_not_wait(desk: Desk, other: Desk) -> None:
    add(desk)
    add(desk, "free")
    past(desk, 5)
    past(desk, 5, "free")
    with other.connection.transaction():
        other.sql("SELECT 1 FROM {soniq}.schedules WHERE name = 's' FOR UPDATE")
        looked = tick(desk)
        assert looked.due == 2
        assert [each.schedule.name for each in looked.fired] == ["free"]
    assert [each.schedule.name for each in tick(desk).fired] == ["s"]


def test_a_scheduler_that_dies_between_the_move_and_the_jobs_has_done_nothing(
    desk: Desk, other: Desk
) -> None:
    add(desk)
    moment = past(desk, 5)
    dying = desk.another()
    steps = due.tick("off")
    firing = steps.send(dying.ask(steps.send(None))).steps
    dying.sql("BEGIN")
    assert dying.ask(firing.send(None)) == ["s"]
    assert tick(other).fired == ()
    dying.connection.close()
    assert get(desk).moment == moment
    until(lambda: tick(other).fired)
    assert made(desk) == [moment]


@pytest.mark.parametrize("change", ["pause", "update", "remove", "retire"])
def test_a_change_between_the_look_and_the_move_wins(desk: Desk, other: Desk, change: str) -> None:
    schedule = add(desk)
    past(desk, 5)
    slow = due.tick("off")
    rows = desk.ask(slow.send(None))
    match change:
        case "pause":
            other.ask(schedules.pause("s"))
        case "update":
            plan = Plan("s", NewJob("", "{}", schedule.placement), Rules(Every(3600)))
            other.ask(schedules.change("s", lambda _: plan, "off"))
        case "remove":
            other.ask(schedules.remove("s"))
        case _:
            other.sql("UPDATE {soniq}.schedules SET retired_at = now(), revision = revision + 1")
    assert resumed(desk, slow, rows).fired == ()
    assert made(desk) == []


# -- clocks


def test_a_clock_put_back_runs_nothing_twice(desk: Desk) -> None:
    """The server's clock is the only one; seen from it, the moments move on by an hour."""
    add(desk)
    past(desk, 5)
    tick(desk)
    desk.sql("UPDATE {soniq}.schedules SET moment = moment + interval '1 hour',"
             " next_run = next_run + interval '1 hour'")  # fmt: skip
    looked = tick(desk)
    assert looked.due == 0
    assert looked.next_seconds is not None
    assert looked.next_seconds > 3600
    assert len(made(desk)) == 1


def test_a_clock_put_forward_is_made_up_for_once(desk: Desk) -> None:
    add(desk)
    past(desk, 3600)
    tick(desk)
    assert len(made(desk)) == 1
    assert get(desk).moment > made(desk)[0]


# -- overlap


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_a_job_that_lives_holds_the_next(desk: Desk, overlap: str) -> None:
    desk.worker(id="8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de")
    add(desk, overlap=overlap)
    past(desk, 5)
    tick(desk)
    (job,) = desk.claim("8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de")
    second = past(desk, 3)
    assert len(tick(desk).fired) == 1
    assert len(made(desk)) == 1
    schedule = get(desk)
    if overlap == "skip":
        assert schedule.moment > second
    else:
        assert (schedule.moment, schedule.waiting) == (second, True)
        assert schedule.next_run > schedule.moment
    desk.finish("8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de", job.id, job.attempt)
    third = past(desk, 1)
    (fired,) = tick(desk).fired
    assert fired.firing.moments == (third,)
    assert not get(desk).waiting


def test_a_job_that_was_run_by_hand_counts_as_the_one_before(desk: Desk) -> None:
    add(desk, overlap="skip")
    desk.ask(schedules.run_now("s", "off"))
    past(desk, 5)
    tick(desk)
    assert len(made(desk)) == 1
    assert get(desk).runs == 1


def test_what_was_run_by_hand_is_counted_once_and_kept_while_it_lives(desk: Desk) -> None:
    """A job that was there already was counted as another, and was kept once more each time."""
    worker = desk.worker()
    add_unique(desk, "s", '{"a": 1}', Unique(None, STATES, None, "skip"), overlap="skip")
    first, again = (desk.ask(schedules.run_now("s", "off")) for _ in range(2))
    assert first == again
    holders = "SELECT CAST(holders AS text[]) FROM {soniq}.schedules"
    assert (get(desk).runs, desk.sql(holders)) == (1, [([first],)])
    past(desk, 5)
    tick(desk)
    assert desk.sql(holders) == [([first],)]
    (job,) = desk.claim(worker)
    desk.finish(worker, job.id, job.attempt)
    second = desk.ask(schedules.run_now("s", "off"))
    assert (get(desk).runs, desk.sql(holders)) == (2, [([second],)])


def test_what_waits_may_run_one_after_the_other(desk: Desk) -> None:
    worker = desk.worker()
    add(desk, every=600, overlap="queue", catch_up="all")
    first = past(desk, 1300)
    for number in range(3):
        assert len(tick(desk).fired) == 1
        tick(desk)
        assert len(made(desk)) == 1, number
        (job,) = desk.claim(worker)
        assert job.scheduled_at == first + timedelta(minutes=10 * number)
        desk.finish(worker, job.id, job.attempt)
        desk.sql("UPDATE {soniq}.schedules SET next_run = least(next_run, statement_timestamp())"
                 " WHERE waiting")  # fmt: skip
    assert not get(desk).waiting
    assert tick(desk).due == 0


# -- keys


def add_unique(desk: Desk, name: str, args: str, unique: Unique, **rules: Any) -> None:
    placement = Placement("task", "default", 100, None, 4, unique=unique)
    desk.ask(
        schedules.add(Plan(name, NewJob("", args, placement), Rules(Every(60), **rules)), "off")
    )


def test_a_job_that_is_there_already_stands_for_the_schedules(desk: Desk) -> None:
    unique = Unique(None, STATES, None, "skip")
    add_unique(desk, "s", '{"a": 1}', unique, overlap="skip")
    add_unique(desk, "t", '{"a": 2}', unique, catch_up="all")
    assert get(desk).unique == unique
    by_hand = desk.ask(schedules.run_now("s", "off"))
    desk.sql("UPDATE {soniq}.schedules SET holders = '{}'")  # as if somebody else had enqueued it
    past(desk, 5)
    past(desk, 150, "t")
    first, second = sorted(tick(desk).fired, key=lambda each: each.schedule.name)
    assert first.ids == (by_hand,)
    assert len(second.ids) == 3
    assert len(set(second.ids)) == 1
    assert len(made(desk)) == 2
    assert (get(desk).last_job_id, get(desk).runs) == (by_hand, 1)
    assert (get(desk, "t").last_job_id, get(desk, "t").runs) == (second.ids[0], 1)
    holders = desk.sql("SELECT CAST(holders AS text[]) FROM {soniq}.schedules ORDER BY name")
    assert holders == [([by_hand],), ([],)]
    assert desk.ask(schedules.run_now("s", "off")) == by_hand


def test_one_that_the_database_refuses_does_not_stop_the_others(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Its arguments, merged with those that wait, are too large."""
    unique = Unique("k", STATES, None, "replace", (("a", "append"),), 20)
    add_unique(desk, "bad", '{"a": ["0123456789"]}', unique)
    add(desk, "good")
    for number in range(2):
        past(desk, 5, "bad")
        past(desk, 5, "good")
        assert {each.schedule.name for each in tick(desk).fired} == {"bad", "good"}
        assert ("'bad' cannot run" in caplog.text) is (number == 1)
    assert len(made(desk)) == 3
    assert get(desk, "bad").next_run > get(desk, "bad").moment
    assert tick(desk).due == 0


# -- faults


def test_one_bad_row_does_not_stop_the_others(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "bad", "c"):
        add(desk, name)
        past(desk, 5, name)
    desk.sql("UPDATE {soniq}.schedules SET timezone = 'Mars/Olympus' WHERE name = 'bad'")
    tick(desk)
    assert len(made(desk)) == 2
    assert "schedule 'bad' cannot run: No time zone" in caplog.text
    bad = get(desk, "bad")
    assert bad.next_run - bad.moment > timedelta(seconds=due.POSTPONED_SECONDS)
    assert tick(desk).due == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("moment", "-infinity"),
        ("moment", "0044-03-15 BC"),
        ("options", "[1]"),
        ("options", '{"unique": {"key": "k"}}'),
    ],
)
def test_a_row_that_cannot_be_read_does_not_stop_the_others(
    desk: Desk, caplog: pytest.LogCaptureFixture, column: str, value: str
) -> None:
    """It was no error of ours that came of it: it ended the scheduler, and its worker too."""
    for name in ("bad", "good"):
        add(desk, name)
        past(desk, 5, name)
    desk.sql(f"UPDATE {{soniq}}.schedules SET {column} = %s WHERE name = 'bad'", value)
    assert [each.schedule.name for each in tick(desk).fired] == ["good"]
    assert "schedule 'bad' cannot run: its row cannot be read" in caplog.text
    assert tick(desk).due == 0
    kept = f"SELECT {column} = %s, next_run > now() FROM {{soniq}}.schedules WHERE name = 'bad'"
    assert desk.sql(kept, value) == [(True, True)]


@pytest.mark.parametrize("moment", ["-infinity", "infinity", "0044-03-15 BC", "12044-03-15"])
def test_a_moment_that_cannot_be_does_not_spoil_the_list(desk: Desk, moment: str) -> None:
    add(desk, "bad")
    good = add(desk, "good")
    desk.sql(
        "UPDATE {soniq}.schedules SET moment = %s, next_run = %s WHERE name = 'bad'", moment, moment
    )
    bad, listed = desk.ask(schedules.list_schedules(task=None, limit=10, after=None))
    assert (bad.name, bad.moment.year in {1, 9999}) == ("bad", True)
    assert (listed.moment, listed.next_run) == (good.moment, good.next_run)


def test_a_look_makes_no_more_jobs_than_it_has_time_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week of many schedules was made up for at once, for so long that a worker with jobs to run
    was silent, and taken for dead."""
    monkeypatch.setattr(due, "MOST_JOBS", 25)
    for name in ("a", "b", "c", "d"):
        add(desk, name, catch_up="all", catch_up_max=10)
        past(desk, 3600, name)
    looks = [tick(desk) for _ in range(3)]
    assert [sum(len(each.ids) for each in look.fired) for look in looks] == [30, 10, 0]
    assert looks[0].next_seconds == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("catch_up", "some"),
        ("overlap", "no"),
        ("owner", "me"),
        ("every_seconds", 0.5),
        ("cron", "x"),
    ],
)
def test_the_table_refuses_what_cannot_be(desk: Desk, column: str, value: object) -> None:
    add(desk)
    with pytest.raises(psycopg.errors.CheckViolation):
        desk.sql(f"UPDATE {{soniq}}.schedules SET {column} = %s", value)


# -- what it costs


def test_ten_thousand_schedules_cost_a_look_at_an_index(desk: Desk) -> None:
    desk.sql(
        """INSERT INTO {soniq}.schedules (name, task, every_seconds, moment, next_run, paused)
           SELECT 's' || n, 't', 60, at, at, n % 9 = 0 FROM (
               SELECT n, now() + n * interval '1 s' AS at FROM generate_series(1, 10000) AS n
           ) AS given"""
    )
    for statistics in ("never taken", "right"):
        if statistics == "right":
            desk.sql("ANALYZE {soniq}.schedules")
        with desk.connection.transaction():
            for step in planner.LOCAL:
                desk.ask(step)
            query = due.tick("off").send(None)
            prepare(desk, "due", query)
            plan = executed(desk, "due", query)
            desk.connection.execute("DEALLOCATE due")
        scans = [node for node in nodes(plan) if "Relation Name" in node and node["Actual Loops"]]
        assert {node.get("Index Name") for node in scans} == {"schedules_next"}, statistics
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 20, statistics


def test_a_look_while_nothing_is_due_is_one_statement(desk: Desk) -> None:
    add(desk)
    looking = due.tick("off")
    answer = desk.ask(looking.send(None))
    with pytest.raises(StopIteration):
        looking.send(answer)


def test_who_changes_schedules_tells_those_who_sleep(
    desk: Desk, ear: Callable[[], list[str]]
) -> None:
    plan = Plan("s", NewJob("", "{}", Placement("t", "q", 1, None, 1)), Rules(Every(60)))
    desk.ask(schedules.add(plan, "auto"))
    desk.ask(schedules.change("s", lambda _: plan, "auto"))
    desk.ask(schedules.pause("s"))
    desk.ask(schedules.resume("s", "auto"))
    assert ear() == ["s:"] * 3
    desk.ask(schedules.change("s", lambda _: plan, "off"))
    assert ear() == []
