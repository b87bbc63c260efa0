"""What a job costs its database, counted: round trips of the worker, and writes of rows."""

from __future__ import annotations

import anyio

from benchmarks.chaos.road import Road
from soniq import Soniq

from .conftest import Ask, eventually, working

JOBS = 5000
WRITES = """
    SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables
    WHERE schemaname = 'soniq' AND (relname = 'jobs' OR relname LIKE 'history%')"""


async def test_a_hundred_quick_jobs_take_at_most_three_round_trips(
    database_url: str, app: Soniq
) -> None:
    """Counted on the wire, between the worker and its server, its start included."""
    with Road(database_url) as road:
        spent = await _trips(road, app)
    assert 0 < spent <= JOBS * 3 / 100


async def _trips(road: Road, app: Soniq) -> int:
    async with Soniq(road.url) as far:

        @far.job(name="quick")
        async def quick(i: int) -> None: ...

        await app.enqueue_many([quick.call(i) for i in range(JOBS)])
        async with working(far) as hand:
            with anyio.fail_after(20):
                while hand.worker.processed < JOBS:
                    await anyio.sleep(0.01)
            return road.trips


async def test_a_job_is_written_twice_after_its_insert_and_kept_once(app: Soniq, ask: Ask) -> None:
    """By its claim and by its end, which moves it to history."""

    @app.job
    async def quick(i: int) -> None: ...

    at_first = await _written(ask)
    await app.enqueue_many([quick.call(i) for i in range(JOBS)])

    async def since(kind: str, count: int) -> dict[str, int] | None:
        now = await _written(ask)
        spent = {each: now[each] - at_first[each] for each in now}
        return spent if spent[kind] >= count else None

    # What is counted is told by each connection up to ten seconds later, or when it ends.
    await app.close()
    assert await eventually(lambda: since("inserted", JOBS))
    async with working(app) as hand:
        await eventually(lambda: _done(ask))
        await hand.stop()
    await eventually(lambda: since("kept", JOBS))
    spent = await eventually(lambda: since("changed", 2 * JOBS))
    assert spent == {"inserted": JOBS, "changed": 2 * JOBS, "kept": JOBS}


async def _done(ask: Ask) -> bool:
    return bool((await ask("SELECT count(*) FROM soniq.history"))[0][0] == JOBS)


async def _written(ask: Ask) -> dict[str, int]:
    """Sum up what was ever written to live jobs, and to history's partitions."""
    counts = {"inserted": 0, "changed": 0, "kept": 0}
    for table, inserts, updates, deletes in await ask(WRITES):
        if table == "jobs":
            counts["inserted"] += inserts
            counts["changed"] += updates + deletes
        else:
            counts["kept"] += inserts + updates + deletes
    return counts
