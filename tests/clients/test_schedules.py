"""Schedules through both clients: declared by code, and made by users."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from soniq import (
    DuplicateSchedule,
    InvalidArguments,
    InvalidOption,
    InvalidTransition,
    ReadOnlyServer,
    Schedule,
    ScheduleNotFound,
    SoniqSync,
    TaskRef,
    UnknownOption,
    UnknownTask,
)
from soniq.schedules import daily, every, weekly
from soniq.store import due

from .colour import settled


@pytest.fixture
def report(eq: Any) -> Any:
    if isinstance(eq, SoniqSync):

        @eq.job(name="report", queue="reports", priority=7, max_retries=2, tags=["money"])
        def report(region: str, full: bool = False) -> None: ...

        return report

    @eq.job(name="report", queue="reports", priority=7, max_retries=2, tags=["money"])
    async def report_(region: str, full: bool = False) -> None: ...

    return report_


def told(schedule: Schedule) -> tuple[Any, ...]:
    return (schedule.name, str(schedule.timing), schedule.args, schedule.queue, schedule.priority)


# -- declaring


async def test_a_function_becomes_a_task_and_its_schedule(eq: Any) -> None:
    @eq.periodic(every=60, queue="mail", retry_delay=[1, 2], name="often")
    def work(n: int = 1) -> int:
        return n

    assert work(3) == 3
    assert work.defaults.retry.delays == (1.0, 2.0)
    deployed = await settled(eq.scheduler.declare())
    assert deployed.added == ("often",)
    schedule = await settled(eq.scheduler.get("often"))
    assert told(schedule) == ("often", "every minute", {}, "mail", 100)
    assert (schedule.owner, schedule.state, schedule.max_attempts) == ("code", "active", 4)
    assert schedule.task == work.name


async def test_one_task_has_several_schedules_with_arguments_and_options(
    eq: Any, report: Any
) -> None:
    stacked = eq.periodic("0 1 * * *", args={"region": "eu"})(report)
    stacked = eq.periodic(daily().at("02:00"), args=("us", True), queue="slow", priority=9)(stacked)
    stacked = eq.periodic(cron=weekly(), args={"region": "eu"}, name="weekly", tags=["w"])(stacked)
    assert stacked is report
    await settled(eq.scheduler.declare())
    first, second, third = await settled(eq.scheduler.list(task=report))
    assert told(first) == ('report(region="eu")', "0 1 * * *", {"region": "eu"}, "reports", 7)
    args = {"region": "us", "full": True}
    assert told(second) == ('report(region="us", full=true)', "0 2 * * *", args, "slow", 9)
    assert told(third) == ("weekly", "0 0 * * 1", {"region": "eu"}, "reports", 7)
    assert (first.tags, third.tags) == (("money",), ("w",))


async def test_what_cannot_be_declared_is_refused_and_nothing_is_kept(
    eq: Any, report: Any, make_client: Callable[..., Any]
) -> None:
    args = {"region": "eu"}
    with pytest.raises(InvalidOption, match="needs either cron= or every="):
        eq.periodic(args=args)
    with pytest.raises(InvalidOption, match="cannot be read"):
        eq.periodic("soon", args=args)
    with pytest.raises(InvalidOption, match="between 1 second"):
        eq.periodic(every=0.5, args=args)
    with pytest.raises(InvalidOption, match="No time zone"):
        eq.periodic(every=5, timezone="Berlin", args=args)
    with pytest.raises(InvalidOption, match=r"catch_up must be one of 'one', 'all', 'skip'"):
        eq.periodic(every=5, catch_up="some", args=args)
    with pytest.raises(InvalidOption, match="overlap must be one of"):
        eq.periodic(every=5, overlap="maybe", args=args)
    with pytest.raises(InvalidOption, match="catch_up_max must be"):
        eq.periodic(every=5, catch_up_max=0, args=args)
    with pytest.raises(InvalidOption, match="jitter"):
        eq.periodic(every=5, jitter=-1, args=args)
    with pytest.raises(InvalidArguments):
        eq.periodic(every=5)(report)
    with pytest.raises(UnknownOption, match="retry_delay"):
        eq.periodic(every=5, args=args, retry_delay=5)(report)
    with pytest.raises(UnknownOption, match="Did you mean 'queue'"):
        eq.periodic(every=5, qeue="x")(lambda: None)
    with pytest.raises(InvalidOption, match="delay is not for schedules"):
        eq.periodic(every=5, args=args, delay=5)(report)
    with pytest.raises(InvalidOption, match="1 to 90 characters"):
        eq.periodic(every=5, args=args, name="x" * 91)(report)
    with pytest.raises(InvalidOption, match="another application"):
        make_client("postgresql:///nowhere").periodic(every=5, args=args)(report)
    eq.periodic(every=5, args=args)(report)
    with pytest.raises(DuplicateSchedule, match=r"periodic\(name="):
        eq.periodic(every=6, args=args)(report)
    assert len(eq.registry.schedules()) == 1


async def test_a_task_declared_anew_declares_its_schedules_anew(eq: Any) -> None:
    """As when its module is loaded again."""

    def declare() -> None:
        @eq.periodic(every=5, name="often")
        def work() -> None: ...

    declare()
    declare()
    assert [plan.name for plan in eq.registry.schedules()] == ["often"]


async def test_a_long_name_is_shortened_and_stays_the_same(eq: Any, report: Any) -> None:
    for region in ("a" * 200, "a" * 199 + "b"):
        eq.periodic(every=5, args={"region": region})(report)
    first, second = (plan.name for plan in eq.registry.schedules())
    assert len(first) == len(second) == 90
    assert first != second


async def test_what_makes_jobs_unique_is_kept_but_for_what_cannot_be(eq: Any, report: Any) -> None:
    add, args = eq.scheduler.add, {"region": "eu"}
    made = await settled(add(report, every=60, args=args, unique=True, unique_for=30))
    assert (made.unique.key, made.unique.seconds, made.unique.conflict) == (None, 30.0, "skip")
    changed = await settled(eq.scheduler.update(made.name, priority=3))
    assert changed.unique == made.unique
    changed = await settled(eq.scheduler.update(made.name, dedup_key="k", on_conflict="replace"))
    assert (changed.unique.key, changed.unique.conflict) == ("k", "replace")
    # Of the arguments, and of the task's own; nobody is there to be told of a duplicate.
    made = await settled(
        add(report, every=60, args=args, name="r", dedup_key=lambda region, **_: region,
            on_conflict="raise")
    )  # fmt: skip
    assert (made.unique.key, made.unique.conflict) == ("eu", "skip")
    with pytest.raises(InvalidOption, match="cannot keep the function that merges 'region'"):
        await settled(
            add(report, every=60, args=args, name="m", unique=True, on_conflict="replace",
                merge={"region": max})
        )  # fmt: skip


async def test_a_limit_of_the_task_holds_for_its_schedules(eq: Any, witness: Any) -> None:
    @eq.job(name="limited", concurrency=1, concurrency_key="account")
    def limited(account: int) -> None: ...

    made = await settled(eq.scheduler.add(limited, every=60, args={"account": 7}, name="s"))
    await settled(eq.scheduler.update("s", priority=3))
    await settled(eq.scheduler.run_now("s"))
    await settled(limited.enqueue(account=7))
    ((gates, number),) = witness("SELECT count(DISTINCT gate), count(gate) FROM soniq.jobs")
    assert (gates, number) == (1, 2)
    eq.periodic(every=60, name="d", args={"account": 7})(limited)
    assert (await settled(eq.scheduler.declare())).added == ("d",)
    assert (await settled(eq.scheduler.declare())).changed == ()
    assert (await settled(eq.scheduler.get("d"))).options == made.options


# -- deploying


async def test_a_deploy_changes_what_changed_and_keeps_moment_and_pause(
    eq: Any, database_url: str, make_client: Callable[..., Any], witness: Callable[..., Any]
) -> None:
    def release(client: Any, timing: Any, queue: str) -> Any:
        @client.periodic(timing, name="s", queue=queue)
        def work() -> None: ...

        work.name = "work"
        return client.scheduler

    await settled(release(eq, every(1).hours(), "a").declare())
    await settled(eq.scheduler.pause("s"))
    witness("UPDATE soniq.schedules SET moment = moment - interval '5 minutes'")
    before = await settled(eq.scheduler.get("s"))

    same = make_client(database_url)
    assert not any(vars_of(await settled(release(same, every(60).minutes(), "a").declare())))
    assert (await settled(same.scheduler.get("s"))).revision == before.revision

    other_queue = release(make_client(database_url), every(1).hours(), "b")
    assert (await settled(other_queue.declare())).changed == ("s",)
    after = await settled(eq.scheduler.get("s"))
    assert (after.queue, after.moment, after.paused) == ("b", before.moment, True)

    other_timing = release(make_client(database_url), every(2).hours(), "b")
    assert (await settled(other_timing.declare())).changed == ("s",)
    after = await settled(eq.scheduler.get("s"))
    assert after.paused
    assert after.moment > before.moment + timedelta(minutes=30)


def vars_of(deployed: Any) -> list[Any]:
    return [deployed.added, deployed.changed, deployed.retired, deployed.refused]


async def test_what_is_gone_from_the_code_is_retired_and_may_come_back(
    eq: Any, database_url: str, make_client: Callable[..., Any]
) -> None:
    def release(*names: str) -> Any:
        client = make_client(database_url)
        for name in names:
            function = lambda: None  # noqa: E731
            function.__qualname__ = f"task_of_{name}"
            client.periodic(every=60, name=name)(function)
        return client.scheduler

    assert (await settled(release("a", "b").declare())).added == ("a", "b")
    before = await settled(eq.scheduler.get("b"))
    assert (await settled(release("a").declare())).retired == ("b",)
    assert (await settled(eq.scheduler.get("b"))).state == "retired"
    assert not any(vars_of(await settled(release("a").declare())))
    assert (await settled(release("a", "b").declare())).changed == ("b",)
    after = await settled(eq.scheduler.get("b"))
    assert (after.state, after.moment) == ("active", before.moment)
    # The last of them too; and a retired one may be removed.
    assert (await settled(release().declare())).retired == ("a", "b")
    await settled(eq.scheduler.remove("b"))
    with pytest.raises(ScheduleNotFound):
        await settled(eq.scheduler.get("b"))


async def test_another_applications_schedules_are_left_alone_while_its_workers_live(
    eq: Any, database_url: str, make_client: Callable[..., Any], witness: Callable[..., Any]
) -> None:
    theirs = make_client(database_url)
    theirs.periodic(every=60, name="theirs")(lambda: None)
    (task,) = theirs.registry.names()
    await settled(theirs.scheduler.declare())
    sign_in = """
        INSERT INTO soniq.workers (id, name, tasks, concurrency, version, seen_at)
        VALUES (gen_random_uuid(), 'w', ARRAY[%s], 1, '0', now() - %s * interval '1 s')"""
    witness(sign_in, task, 5)
    assert (await settled(eq.scheduler.declare())).retired == ()
    # Right after a crash of the server nobody has had time to report.
    witness("DELETE FROM soniq.workers")
    witness("INSERT INTO soniq.watch DEFAULT VALUES")
    assert (await settled(eq.scheduler.declare())).retired == ()
    witness("UPDATE soniq.watch SET since = now() - interval '1 hour'")
    witness(sign_in, task, 500)
    assert (await settled(eq.scheduler.declare())).retired == ("theirs",)


async def test_a_users_schedule_is_never_touched_by_a_deploy(eq: Any, report: Any) -> None:
    made = await settled(eq.scheduler.add(report, every=60, args=("eu",), name="mine"))
    eq.periodic(every=5, args={"region": "us"}, name="mine")(report)
    deployed = await settled(eq.scheduler.declare())
    assert (deployed.refused, deployed.retired, deployed.changed) == (("mine",), (), ())
    assert (await settled(eq.scheduler.get("mine"))).args == made.args == {"region": "eu"}


# -- those of users


async def test_a_schedule_is_made_changed_and_removed(eq: Any, report: Any) -> None:
    made = await settled(
        eq.scheduler.add(
            report, "30 9 * * MON-FRI", args={"region": "eu"}, timezone="Europe/Berlin", jitter=60,
            catch_up="all", catch_up_max=5, overlap="queue", timeout=timedelta(minutes=1),
            max_retries=0,
        )
    )  # fmt: skip
    assert told(made) == ('report(region="eu")', "30 9 * * MON-FRI", {"region": "eu"}, "reports", 7)
    assert (made.timezone, made.jitter, made.catch_up, made.catch_up_max, made.overlap) == (
        *("Europe/Berlin", 60.0, "all", 5, "queue"),
    )
    assert (made.timeout, made.max_attempts, made.owner, made["name"]) == (
        60.0,
        1,
        "user",
        made.name,
    )
    assert made.moment <= made.next_run <= made.moment + timedelta(seconds=60)

    changed = await settled(eq.scheduler.update(made.name, overlap="skip", priority=3))
    assert (changed.overlap, changed.priority, changed.jitter) == ("skip", 3, 60.0)
    assert (changed.moment, changed.timeout) == (made.moment, 60.0)
    changed = await settled(eq.scheduler.update(made.name, every=3600, args={"region": "us"}))
    assert told(changed)[1:3] == ("every hour", {"region": "us"})
    assert changed.moment != made.moment

    await settled(eq.scheduler.remove(made.name))
    with pytest.raises(ScheduleNotFound, match="soniq schedules list"):
        await settled(eq.scheduler.update(made.name, every=60))
    assert await settled(eq.scheduler.list()) == []


async def test_arguments_that_are_kept_are_kept_as_they_are(eq: Any, witness: Any) -> None:
    @eq.job(name="odd")
    def odd(*values: float, **more: Any) -> None: ...

    made = await settled(
        eq.scheduler.add(odd, every=60, args=(1e23, 0.1, 2**70, "\N{SNOWMAN}"), name="odd")
    )
    witness("""UPDATE soniq.schedules SET args = args || '{"exact": 0.10000000000000000001}'""")
    job = await settled(eq.get_job(await settled(eq.scheduler.run_now("odd"))))
    assert job.args["*"] == made.args["*"] == [1e23, 0.1, 2**70, "\N{SNOWMAN}"]
    assert witness("SELECT CAST(args ->> 'exact' AS text) FROM soniq.jobs") == [
        ("0.10000000000000000001",)
    ]


async def test_what_cannot_be_is_refused(eq: Any, report: Any) -> None:
    scheduler, args = eq.scheduler, {"region": "eu"}
    await settled(scheduler.add(report, every=60, args=args))
    refused: list[tuple[type[Exception], Any]] = [
        (DuplicateSchedule, lambda: scheduler.add(report, every=5, args=args)),
        (InvalidArguments, lambda: scheduler.add(report, every=5)),
        (UnknownTask, lambda: scheduler.add("raport", every=5, args=args)),
        (InvalidOption, lambda: scheduler.add(report, args=args)),
        (UnknownOption, lambda: scheduler.add(report, every=5, args=args, evry=6)),
        (InvalidOption, lambda: scheduler.add(report, every=5, args=args, scheduled_at=1)),
        (InvalidOption, lambda: scheduler.add(report, every=5, args=args, name="")),
        (InvalidOption, lambda: scheduler.add(report, every=5, args=args, name="s", paused="no")),
        (InvalidOption, lambda: scheduler.update('report(region="eu")', every=0.1)),
        (InvalidArguments, lambda: scheduler.update('report(region="eu")', args={"no": 1})),
        (ScheduleNotFound, lambda: scheduler.pause("none")),
        (ScheduleNotFound, lambda: scheduler.resume("none")),
        (ScheduleNotFound, lambda: scheduler.remove("none")),
        (ScheduleNotFound, lambda: scheduler.run_now("none")),
        (ScheduleNotFound, lambda: scheduler.preview("none")),
        (InvalidOption, lambda: scheduler.preview('report(region="eu")', 0)),
        (InvalidOption, lambda: scheduler.list(limit=0)),
    ]
    before = await settled(scheduler.list())
    for kind, ask in refused:
        with pytest.raises(kind):
            await settled(ask())
    assert [dict(each) for each in await settled(scheduler.list())] == [dict(e) for e in before]


async def test_codes_schedules_can_be_paused_and_run_but_not_changed(eq: Any) -> None:
    eq.periodic(every=60, name="s")(lambda: None)
    await settled(eq.scheduler.declare())
    with pytest.raises(InvalidTransition, match="next deploy would undo"):
        await settled(eq.scheduler.update("s", every=5))
    with pytest.raises(InvalidTransition, match="next deploy would bring it back"):
        await settled(eq.scheduler.remove("s"))
    assert await settled(eq.scheduler.pause("s")) is True
    assert await settled(eq.scheduler.pause("s")) is False
    job = await settled(eq.get_job(await settled(eq.scheduler.run_now("s"))))
    assert (job.status, job.tags) == ("queued", ("schedule:s",))
    assert await settled(eq.scheduler.resume("s")) is True
    assert await settled(eq.scheduler.resume("s")) is False


async def test_what_somebody_spoilt_by_sql_is_mended_by_a_deploy_or_an_update(
    eq: Any, report: Any, witness: Callable[..., Any]
) -> None:
    eq.periodic("0 9 * * *", name="codes", args=["eu"])(report)
    await settled(eq.scheduler.declare())
    await settled(eq.scheduler.add(report, "0 9 * * *", name="mine", args=["eu"]))
    witness("UPDATE soniq.schedules SET cron = 'never', timezone = 'Mars'")
    assert (await settled(eq.scheduler.declare())).changed == ("codes",)
    with pytest.raises(InvalidOption, match="cannot be read"):
        await settled(eq.scheduler.preview("mine"))
    await settled(eq.scheduler.update("mine", every=60, timezone="UTC"))
    for name, timing in (("codes", "0 9 * * *"), ("mine", "every minute")):
        assert str((await settled(eq.scheduler.get(name))).timing) == timing
        assert await settled(eq.scheduler.preview(name, 1))


async def test_a_pause_goes_on_from_the_next_moment(eq: Any, witness: Callable[..., Any]) -> None:
    await settled(eq.scheduler.add(TaskRef("t"), "0 * * * *", name="s", paused=True))
    witness("UPDATE soniq.schedules SET moment = moment - interval '10 days'")
    assert await settled(eq.scheduler.resume("s"))
    schedule = await settled(eq.scheduler.get("s"))
    assert timedelta(0) < schedule.moment - datetime.now(UTC) <= timedelta(hours=1, minutes=1)
    assert schedule.next_run == schedule.moment


async def test_a_preview_gives_the_next_moments(eq: Any) -> None:
    made = await settled(
        eq.scheduler.add(TaskRef("t"), daily().at("02:30"), name="s", timezone="Europe/Berlin")
    )
    moments = await settled(eq.scheduler.preview("s", 400))
    assert len(moments) == len(set(moments)) == 400
    assert moments[0] == made.moment
    assert moments == sorted(moments)


async def test_a_preview_ends_with_the_calendar(eq: Any) -> None:
    """Nine thousand years on, it was an `OverflowError` of Python's."""
    every_ten_years = timedelta(days=3650)
    await settled(eq.scheduler.add(TaskRef("t"), every=every_ten_years, name="s"))
    moments = await settled(eq.scheduler.preview("s", 1000))
    assert 9999 - moments[-1].year <= 10


async def test_pages_follow_one_another_by_name(eq: Any) -> None:
    names = [f"s{n}" for n in range(5)]
    for name in reversed(names):
        await settled(eq.scheduler.add(TaskRef("t"), every=60, name=name))
    first = await settled(eq.scheduler.list(limit=3))
    second = await settled(eq.scheduler.list(limit=3, after=first[-1].name))
    assert [each.name for each in (*first, *second)] == names
    assert await settled(eq.scheduler.list(task="other")) == []


async def test_everything_happens_in_the_callers_transaction(
    eq: Any, connect: Callable[..., Any], witness: Callable[..., Any]
) -> None:
    await settled(eq.scheduler.add(TaskRef("t"), every=60, name="kept"))
    connection = await settled(connect())
    within = eq.within(connection).scheduler
    await settled(within.add(TaskRef("t"), every=60, name="new"))
    await settled(within.pause("kept"))
    await settled(within.run_now("kept"))
    with pytest.raises(DuplicateSchedule):  # which does not abort the transaction
        await settled(within.add(TaskRef("t"), every=60, name="new"))
    assert len(await settled(within.list())) == 2
    await settled(connection.rollback())
    assert witness("SELECT name, paused, runs FROM soniq.schedules") == [("kept", False, 0)]
    assert witness("SELECT count(*) FROM soniq.jobs") == [(0,)]


def test_a_look_leaves_a_server_that_takes_no_writes_though_nothing_is_due(
    database_url: str,
) -> None:
    """A scheduler stayed on a demoted server: its look reads only, and found nothing to do."""
    with SoniqSync(database_url) as eq, psycopg.connect(database_url) as connection:
        assert eq.within(connection)._run(due.tick, "off").due == 0
        connection.rollback()
        connection.read_only = True
        with pytest.raises(ReadOnlyServer, match="primary"):
            eq.within(connection)._run(due.tick, "off")
