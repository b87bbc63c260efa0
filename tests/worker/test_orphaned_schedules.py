"""Two applications on one database: what one declares, the other does not retire for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from soniq import Schedule, Soniq
from soniq.db.session import Session
from soniq.events import Bus
from soniq.worker.bell import Bell
from soniq.worker.schedule import VOUCHED_SECONDS, Scheduler

from .conftest import Ask

SIGN_IN = """
    INSERT INTO soniq.workers (id, name, tasks, concurrency, version, seen_at)
    VALUES ('8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de', 'w', ARRAY['ours'], 1, '0', now())
    ON CONFLICT (id) DO UPDATE SET seen_at = now()"""
CUT_OFF = "UPDATE soniq.workers SET seen_at = now() - interval '1 hour'"
WATCHED = """
    INSERT INTO soniq.watch (since) VALUES (now() - interval '1 hour')
    ON CONFLICT (single) DO UPDATE SET since = excluded.since"""


@pytest.fixture(autouse=True)
def always_time_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soniq.worker.schedule.DECLARED_SECONDS", -1.0)


@pytest.fixture
async def start(app: Soniq, database_url: str, ask: Ask) -> AsyncIterator[Callable[..., Scheduler]]:
    """Start the scheduler of a release: of an application with a task and its schedules."""
    await ask(WATCHED)
    async with AsyncExitStack() as stack:

        def started(*names: str, task: str = "ours", every: float = 3600, **how: Any) -> Scheduler:
            client = Soniq(database_url)
            function = client.job(name=task)(lambda: None)
            for name in names:
                client.periodic(every=every, name=name)(function)
            session = Session(app._database)
            stack.push_async_callback(session.close)
            bus, bell, quiet = Bus(), Bell(), lambda: False
            return Scheduler(
                session, client.registry, client.settings, bus, bell=bell, listening=quiet, **how
            )

        yield started


Start = Callable[..., Scheduler]


async def state(client: Soniq, name: str = "s") -> str:
    return (await client.scheduler.get(name)).state


def kept(schedule: Schedule) -> tuple[Any, ...]:
    return (schedule.moment, schedule.next_run, schedule.paused, schedule.runs, schedule.created_at)


async def test_what_another_application_retired_comes_back_while_its_own_runs(
    app: Soniq, start: Start, ask: Ask
) -> None:
    """Its workers were cut off for longer than they may be silent; it declared only at its start,
    so its schedules stayed off until somebody started it again."""
    ours, theirs = start("s"), start(task="theirs")
    await ask(SIGN_IN)
    await ours._round()
    await app.scheduler.run_now("s")
    await app.scheduler.pause("s")
    before = await app.scheduler.get("s")
    await theirs._round()
    assert await state(app) == "paused"

    await ask(CUT_OFF)
    await theirs._round()
    await theirs._round()
    assert await state(app) == "retired"

    await ask(SIGN_IN)
    await ours._round()
    await theirs._round()
    after = await app.scheduler.get("s")
    assert after.state == "paused"
    assert kept(after) == kept(before)


async def test_what_only_a_scheduler_declares_is_not_retired_while_that_looks(
    app: Soniq, start: Start, ask: Ask
) -> None:
    ours, theirs = start("s", alone=True), start(task="theirs")
    await ours._round()
    before = await app.scheduler.get("s")
    await theirs._round()
    assert await state(app) == "active"
    await ask("UPDATE soniq.schedules SET declared_until = now() + interval '1 second'")
    await ours._round()
    assert (await app.scheduler.get("s")).revision == before.revision
    ((seconds,),) = await ask(
        "SELECT CAST(extract(epoch FROM declared_until - now()) AS float) FROM soniq.schedules"
    )
    assert VOUCHED_SECONDS - 60 < seconds <= VOUCHED_SECONDS
    # It was cut off, or ended.
    await ask("UPDATE soniq.schedules SET declared_until = now() - interval '1 second'")
    await theirs._round()
    assert await state(app) == "retired"
    await ours._round()
    await theirs._round()
    assert await state(app) == "active"


async def test_an_old_release_does_not_undo_what_the_new_one_retired_or_changed(
    app: Soniq, start: Start, ask: Ask
) -> None:
    """Side by side that one counts which started last, however often the other looks."""
    old, new, theirs = start("s", "t"), start("s", every=60), start(task="theirs")
    await old._round()
    await new._round()
    await old._round()
    assert await state(app, "t") == "retired"
    assert (await app.scheduler.get("s")).every == 60

    # All of them were cut off: what comes back is what the new one said, whoever brings it back.
    await theirs._round()
    assert await state(app) == "retired"
    await old._round()
    assert await state(app) == "active"
    assert (await app.scheduler.get("s")).every == 60
    assert await state(app, "t") == "retired"


async def test_a_new_release_retires_for_good_what_was_retired_for_want_of_a_worker(
    app: Soniq, start: Start
) -> None:
    old, new, theirs = start("s"), start(), start(task="theirs")
    await old._round()
    await theirs._round()
    await new._round()
    await old._round()
    assert await state(app) == "retired"


async def test_what_is_started_again_after_it_was_retired_for_good_comes_back(
    app: Soniq, start: Start
) -> None:
    await start("s")._round()
    await start()._round()
    assert await state(app) == "retired"
    await start("s")._round()
    assert await state(app) == "active"
