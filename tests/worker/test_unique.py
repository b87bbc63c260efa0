"""Unique jobs that run, and the upkeep of their keys."""

from __future__ import annotations

import pytest

from soniq import Snooze, Soniq

from .conftest import Ask, eventually, run_once, working

pytestmark = pytest.mark.anyio


async def test_a_running_job_has_its_key_and_one_more_may_wait(app: Soniq) -> None:
    seen: list[str] = []

    @app.job("once", unique=True)
    async def once(n: int) -> None:
        if not seen:
            seen.append(await app.enqueue(once, n))
            seen.append(await app.enqueue(once, n, unique_while={"scheduled", "queued"}))
            raise Snooze(0)  # it comes back to wait beside the one that it made
        seen.append(await app.enqueue(once, n))

    first = await app.enqueue(once, 1)
    await run_once(app)
    assert seen[0] == first
    assert seen[1] != first
    assert {(await app.get_job(each)).status for each in seen} == {"done"}
    assert await app.enqueue(once, 1) not in seen


async def test_a_worker_forgets_keys_that_nobody_holds(app: Soniq, ask: Ask) -> None:
    @app.job("elsewhere", queue="unserved", dedup_key="held")
    async def elsewhere() -> None: ...

    held = await app.enqueue(elsewhere)
    await ask(
        "INSERT INTO soniq.keys (task, key) "
        "SELECT 'elsewhere', 'k:' || n FROM generate_series(1, 2500) AS n"
    )

    async def only_one_is_left() -> bool:
        return await ask("SELECT key FROM soniq.keys") == [("k:held",)]

    async with working(app, queues=["served"]):
        await eventually(only_one_is_left, 30)
    assert await app.enqueue(elsewhere) == held
