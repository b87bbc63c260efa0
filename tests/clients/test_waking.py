"""Whom an enqueue wakes, and when it does not even look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from soniq.policy.waking import FRESH_SECONDS, Waking

from .colour import entered, settled

pytestmark = pytest.mark.anyio

Heard = Callable[[], list[str]]
IDLE = """
    INSERT INTO soniq.workers (id, name, queues, concurrency, version, idle)
    VALUES (gen_random_uuid(), 'x', '{default}', 1, '0', true)"""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def listening(url: str) -> Iterator[Heard]:
    """Give what was notified since the last time; a mark at the end says that it is all."""
    with psycopg.connect(url, autocommit=True) as ear, psycopg.connect(url, autocommit=True) as end:
        ear.execute("LISTEN soniq")

        def heard() -> list[str]:
            end.execute("NOTIFY soniq, 'end'")
            told = []
            for notification in ear.notifies(timeout=20):
                if notification.payload == "end":
                    return told
                told.append(notification.payload)
            raise AssertionError(f"the mark did not come: {told}")

        yield heard


@pytest.fixture
def heard(database_url: str) -> Iterator[Heard]:
    yield from listening(database_url)


@pytest.fixture
def clock(eq: Any) -> Clock:
    clock = Clock()
    eq._app.waking = Waking(clock)
    return clock


@pytest.fixture
def task(eq: Any) -> Any:
    def work() -> None: ...

    return eq.job("work")(work)


async def test_a_client_that_found_nobody_idle_does_not_look_for_a_moment(
    eq: Any, task: Any, clock: Clock, witness: Any, heard: Heard
) -> None:
    await settled(eq.enqueue(task))
    witness(IDLE)
    await settled(eq.enqueue(task))
    assert heard() == [], "it did not look"
    clock.now += FRESH_SECONDS
    for _ in range(3):
        await settled(eq.enqueue(task))
    assert heard() == ["q:default"] * 3, "it looks, and that somebody is idle is not remembered"
    assert witness("SELECT count(*), count(DISTINCT id) FROM soniq.jobs") == [(5, 5)]


async def test_a_worker_that_was_idle_before_is_always_told(
    eq: Any, task: Any, witness: Any, heard: Heard
) -> None:
    witness(IDLE)
    for _ in range(20):
        await settled(eq.enqueue(task))
    assert heard() == ["q:default"] * 20


@pytest.mark.usefixtures("clock")
async def test_all_ways_in_share_what_was_found(
    eq: Any, task: Any, witness: Any, heard: Heard, connect: Any
) -> None:
    await settled(eq.enqueue(task))
    witness(IDLE)
    connection = await connect(autocommit=True)
    await settled(eq.enqueue(task, connection=connection))
    async with entered(connection.transaction()):
        await settled(eq.within(connection).enqueue(task))
    await settled(task.enqueue())
    assert heard() == []
    assert witness("SELECT count(*) FROM soniq.jobs") == [(4,)]


@pytest.mark.usefixtures("clock")
async def test_another_queue_is_another_matter(
    eq: Any, task: Any, witness: Any, heard: Heard
) -> None:
    await settled(eq.enqueue(task, queue="other"))
    witness(IDLE)
    await settled(eq.enqueue(task))
    assert heard() == ["q:default"]


@pytest.mark.usefixtures("clock")
async def test_another_database_is_another_matter(
    eq: Any, task: Any, colour: str, heard: Heard, make_client: Any, make_database: Any,
    migrated_template: str, keeper: Any,
) -> None:  # fmt: skip
    """A client may be handed connections to several."""
    await settled(eq.enqueue(task))
    url = make_database(migrated_template)
    there = make_client(url)
    async with entered(there.backend.acquire()) as connection:
        for ear in listening(url):
            await settled(connection.execute(IDLE))
            await settled(eq.enqueue(task, connection=connection))
            assert ear() == ["q:default"]
    await settled(there.close())
    keeper.execute(f'DROP DATABASE "{psycopg.conninfo.conninfo_to_dict(url)["dbname"]}"'.encode())
    assert heard() == []


@pytest.mark.usefixtures("clock")
async def test_what_an_old_snapshot_shows_is_not_remembered(
    eq: Any, task: Any, witness: Any, heard: Heard, connect: Any
) -> None:
    """A repeatable read transaction looks at the workers as they were when it began."""
    connection = await connect(autocommit=True)
    await settled(connection.execute("SET default_transaction_isolation = 'repeatable read'"))
    async with entered(connection.transaction()):
        await settled(connection.execute("SELECT FROM soniq.workers"))
        witness(IDLE)
        await settled(eq.enqueue(task, connection=connection))
        await settled(eq.enqueue(task))
        assert heard() == ["q:default"]


@pytest.mark.usefixtures("clock")
async def test_settings_keep_their_meaning(
    make_client: Any, database_url: str, witness: Any, heard: Heard
) -> None:
    def work() -> None: ...

    always, off = (make_client(database_url, notify=mode) for mode in ("always", "off"))
    for client in (always, off):
        client.job("work")(work)
        await settled(client.enqueue("work"))
    assert heard() == ["q:default"], "with nobody there"
    witness(IDLE)
    for client in (off, always, always):
        await settled(client.enqueue("work"))
    assert heard() == ["q:default"] * 2
    assert witness("SELECT count(*) FROM soniq.jobs") == [(5,)]
