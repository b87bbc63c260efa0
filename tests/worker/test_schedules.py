"""Workers fire schedules: at the moment, once, and only if they are asked to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from soniq import JobContext, Soniq, TaskRef
from soniq.db.session import Session
from soniq.events import JobFinished, Listening, ScheduleFired, SchedulesDeclared
from soniq.schedules import every
from soniq.worker.alone import Alone
from soniq.worker.bell import Bell
from soniq.worker.schedule import LOOK_SECONDS, STAND_BY_SECONDS, Scheduler

from .conftest import Ask, Seen, eventually, run_once, working

DUE_AN_HOUR_AGO = """
    UPDATE soniq.schedules SET moment = moment - interval '1 hour',
        next_run = next_run - interval '1 hour', revision = revision + 1"""


def scheduler(app: Soniq) -> Scheduler:
    session = Session(app._database)
    return Scheduler(
        session, app.registry, app.settings, app.bus, bell=Bell(), listening=lambda: False
    )


async def test_a_declared_schedule_runs_again_and_again_at_its_moments(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    contexts: list[JobContext] = []

    @app.periodic(every(1).seconds(), name="often")
    async def often(ctx: JobContext) -> None:
        contexts.append(ctx)

    async with working(app):
        declared = await seen.one(SchedulesDeclared)
        fired = await seen.some(3, ScheduleFired)
        await seen.some(3, JobFinished)
    assert declared.added == ("often",)
    assert [each.job_ids[0] for each in fired[:3]] == [ctx.job_id for ctx in contexts[:3]]
    moments = [each.moment for each in fired]
    assert moments == sorted(set(moments))
    for ctx, each in zip(contexts[:3], fired, strict=False):
        assert ctx.scheduled_at == each.moment
        assert ctx.tags == ("schedule:often",)


async def test_what_was_missed_while_nobody_worked_runs_once_when_somebody_does(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    ran: list[None] = []

    @app.periodic(every=3600, name="hourly")
    async def hourly() -> None:
        ran.append(None)

    await app.scheduler.declare()
    await ask(DUE_AN_HOUR_AGO)
    async with working(app):
        await seen.one(JobFinished)
    assert len(ran) == 1


async def test_a_worker_that_runs_once_fires_what_is_due_first(app: Soniq, ask: Ask) -> None:
    ran: list[str] = []

    @app.periodic(every=3600, args=("due",), name="due")
    @app.job(name="note")
    async def note(what: str) -> None:
        ran.append(what)

    await app.scheduler.declare()
    await run_once(app)
    assert ran == []
    await ask(DUE_AN_HOUR_AGO)
    await run_once(app)
    await run_once(app)
    assert ran == ["due"]


async def test_a_sleeping_scheduler_hears_of_a_new_schedule(
    app: Soniq, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would sleep for minutes; the new one is due in a second."""
    for name in ("LOOK_SECONDS", "QUIET_LOOK_SECONDS"):
        monkeypatch.setattr(f"soniq.worker.schedule.{name}", 300.0)

    @app.job(name="note")
    async def note() -> None: ...

    async with working(app, poll_interval=300):
        await seen.one(Listening, healthy=True)
        await app.scheduler.add(note, every=3600, name="far")
        await app.scheduler.add(note, every=1, name="near")
        await seen.one(ScheduleFired, schedule="near", seconds=20)


async def test_a_worker_may_be_told_to_leave_schedules_alone(app: Soniq, ask: Ask) -> None:
    ran: list[None] = []

    @app.periodic(every=3600, name="s")
    async def work() -> None:
        ran.append(None)

    await run_once(app, scheduler=False)
    assert await app.scheduler.list() == []
    await app.scheduler.declare()
    await ask(DUE_AN_HOUR_AGO)
    await run_once(app, scheduler=False)
    assert (await app.scheduler.get("s")).runs == 0
    assert ran == []


async def test_a_scheduler_alone_fires_and_runs_no_jobs(app: Soniq, seen: Seen, ask: Ask) -> None:
    @app.periodic(every(1).seconds(), name="often")
    async def often() -> None: ...

    alone = Alone(app._database, app.registry, app.settings, app.bus)
    codes: list[int] = []

    async def run() -> None:
        codes.append(await alone.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await seen.some(2, ScheduleFired)
        alone.stop()
    assert codes == [0]
    assert await ask("SELECT DISTINCT state FROM soniq.jobs") == [("queued",)]
    assert await ask("SELECT count(*) FROM soniq.workers") == [(0,)]
    # Without one it has to vouch for what it declares.
    vouched = "SELECT declared_until > now() + interval '1 minute' FROM soniq.schedules"
    assert await ask(vouched) == [(True,)]


async def test_a_lost_database_is_waited_for(app: Soniq, seen: Seen, ask: Ask) -> None:
    @app.periodic(every(1).seconds(), name="often")
    async def often() -> None: ...

    async with working(app):
        await seen.one(ScheduleFired)
        await ask(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND backend_type = 'client backend'"""
        )
        fired = len(seen.of(ScheduleFired))
        await seen.some(fired + 2, ScheduleFired, seconds=20)


async def test_who_is_not_the_first_stands_by_until_something_is_overdue(
    app: Soniq, ask: Ask
) -> None:
    await app.scheduler.add(TaskRef("t"), every=3600, name="s")
    second = scheduler(app)
    assert await second._round() <= LOOK_SECONDS
    await ask(DUE_AN_HOUR_AGO)
    await ask("BEGIN")
    await ask("SELECT 1 FROM soniq.schedules FOR UPDATE")  # as somebody does who fires it
    assert 0 < await second._round() <= STAND_BY_SECONDS
    assert not second._prompt
    await ask("ROLLBACK")  # they died
    assert await second._round() == 0
    assert second._prompt
    await second._session.close()


async def test_what_lost_its_last_worker_is_retired_in_time(
    app: Soniq, ask: Ask, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DECLARED_SECONDS", "QUIET_LOOK_SECONDS"):
        monkeypatch.setattr(f"soniq.worker.schedule.{name}", 0.1)

    @app.periodic(every=3600, name="declared")
    @app.job(name="note")
    async def note() -> None: ...

    async with working(app, poll_interval=0.1):
        await seen.one(SchedulesDeclared)
        await ask(
            """INSERT INTO soniq.schedules (name, task, every_seconds, moment, next_run, owner)
               SELECT n, t, 60, now() + interval '1 hour', now() + interval '1 hour', o
               FROM (VALUES ('gone', 'gone', 'code'), ('known', 'note', 'code'),
                            ('user', 'gone', 'user')) AS given (n, t, o)"""
        )
        await ask(
            """INSERT INTO soniq.watch (since) VALUES (now() - interval '1 hour')
               ON CONFLICT (single) DO UPDATE SET since = excluded.since"""
        )
        _, told = await seen.some(2, SchedulesDeclared)
    assert told.retired == ("gone",)


async def test_a_schedule_waits_for_its_job_to_end(app: Soniq, seen: Seen) -> None:
    gate = anyio.Event()
    running: list[Any] = []
    most: list[int] = []

    async def work() -> None:
        running.append(None)
        most.append(len(running))
        await gate.wait()
        running.pop()

    app.periodic(every=1, name="slow", overlap="queue")(work)
    async with working(app):

        async def waits() -> bool:
            schedules = await app.scheduler.list()
            return any(each.waiting for each in schedules)

        await eventually(waits, 20)
        assert len(seen.of(ScheduleFired)) == 1
        gate.set()
        await seen.some(3, ScheduleFired, seconds=20)
    assert set(most) == {1}


async def test_what_waited_begins_when_the_job_before_has_ended(
    app: Soniq, seen: Seen, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked at once a second; here it would be in an hour."""
    monkeypatch.setattr("soniq.policy.schedule.AGAIN_SECONDS", 3600.0)
    gate = anyio.Event()

    @app.periodic(every=600, name="slow", overlap="queue")
    async def slow() -> None:
        await gate.wait()

    async with working(app):
        await seen.one(SchedulesDeclared)
        await app.scheduler.run_now("slow")
        await ask(DUE_AN_HOUR_AGO)
        await ask("SELECT pg_notify('soniq', 's:')")

        async def waits() -> bool:
            return (await app.scheduler.get("slow")).waiting

        await eventually(waits, 20)
        gate.set()
        await seen.one(ScheduleFired, seconds=20)
        await seen.some(2, JobFinished)
