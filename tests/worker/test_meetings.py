"""Two loops of one worker that meet over the same job or flag, each meeting forced by a lock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from soniq import Soniq
from soniq.db.session import Session
from soniq.store import claims
from soniq.worker.bench import Bench
from soniq.worker.fetch import Fetcher
from soniq.worker.heartbeat import Heartbeat

from .conftest import Ask, eventually, outside

pytestmark = pytest.mark.anyio

WAITING = """
    SELECT count(*) FROM pg_locks WHERE NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@pytest.fixture
async def session(app: Soniq) -> AsyncIterator[Session]:
    made = Session(app._database)
    yield made
    await made.close()


@pytest.fixture
def bench(app: Soniq) -> Bench:
    return Bench(app.registry, app.settings, app.hooks, app.bus)


@asynccontextmanager
async def waiting(url: str, ask: Ask, loop: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Start what reads jobs, and hold it up there for the length of the block."""

    async def held_up() -> bool:
        return await ask(WAITING) == [(1,)]

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks, await outside(url) as wall:
            async with wall.transaction():
                await wall.execute(b"LOCK TABLE soniq.jobs IN ACCESS EXCLUSIVE MODE")
                tasks.start_soon(loop)
                await eventually(held_up)
                yield


async def test_a_job_claimed_again_while_a_heartbeat_asks_is_not_taken_for_the_lost_claim(
    app: Soniq, ask: Ask, bench: Bench, session: Session, database_url: str
) -> None:
    """Both claims are of one job, and only the first of them was asked about."""

    @app.job
    async def note() -> None: ...

    await app.enqueue_many(note, [{}, {}])
    claim = claims.claim(bench.id, {"default": 2}, [note.name])
    lost, again = await app._database.run(claim.__iter__)
    await ask("UPDATE soniq.jobs SET worker_id = gen_random_uuid()")
    bench.feed([lost, again])
    heartbeat = Heartbeat(bench, session)
    async with waiting(database_url, ask, heartbeat._check_leases):
        bench.remove(lambda job: job is again)
        second = again._replace()
        bench.feed([second])
    assert len(bench.ready) == 1
    assert bench.ready[0] is second


async def test_what_makes_a_worker_uncertain_while_it_asks_stays_to_be_asked(
    app: Soniq, ask: Ask, bench: Bench, session: Session, database_url: str
) -> None:
    """A claim of the sweeper, say, whose answer was lost while the fetcher looked for another."""
    bench.uncertain = True
    fetcher = Fetcher(bench, session)
    async with waiting(database_url, ask, partial(fetcher.hand_back_forgotten, bench.known)):
        assert not bench.uncertain
        bench.uncertain = True
    assert bench.uncertain
