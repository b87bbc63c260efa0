"""Claims that begin above a worn head, and the sweeps that find what they overlook."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest

from soniq import Soniq
from soniq.job.ids import new_id
from soniq.job.record import Claimed, JobStatus
from soniq.worker.worn import CLAIMS, Worn

from .conftest import ended, working

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("priority", [1, 100, 900])
async def test_a_job_below_where_claims_begin_is_found_by_a_sweep(
    app: Soniq, priority: int
) -> None:
    @app.job
    async def note() -> None: ...

    async with working(app) as hand:
        _wear(hand.worker.bench.worn, note.name)
        job_id = await app.enqueue(note.options(priority=priority))
        await anyio.sleep(0)
        hand.worker.bench.wake_sweep.ring()
        assert (await ended(app, job_id)).status is JobStatus.DONE


async def test_a_queue_beside_a_worn_one_is_found_by_a_look(app: Soniq) -> None:
    """Only a sweep named others, once a second or less often; here none can end."""

    @app.job
    async def note() -> None: ...

    async with working(app, poll_interval=0.02, notify="off") as hand:
        async with hand.worker.bench.sweeping:
            _wear(hand.worker.bench.worn, note.name)
            job_id = await app.enqueue(note.options(queue="beside"))
            assert (await ended(app, job_id)).status is JobStatus.DONE


async def test_a_worn_queue_is_claimed_apart_from_others(app: Soniq) -> None:
    """A claim of several begins at the head of each, which for the worn one takes too long."""

    @app.job
    async def note() -> None: ...

    async with working(app, poll_interval=0.02, notify="off") as hand:
        async with hand.worker.bench.sweeping:
            _wear(hand.worker.bench.worn, note.name)
            below = await app.enqueue(note)  # where only a sweep finds it
            for _ in range(3):
                beside = await app.enqueue(note.options(queue="beside"))
                assert (await ended(app, beside)).status is JobStatus.DONE
            assert (await app.get_job(below)).status is JobStatus.QUEUED
        hand.worker.bench.wake_sweep.ring()
        assert (await ended(app, below)).status is JobStatus.DONE


def _wear(worn: Worn, task: str) -> None:
    """Let a worker believe in jobs of the year 9000, behind a head that takes long to pass."""
    far = datetime(9000, 1, 1, tzinfo=UTC)
    last = Claimed(new_id(), task, "default", "{}", 1, 4, 0, 100, far, far, *[None] * 3, False, 1.0)
    for _ in range(CLAIMS):
        worn.claimed("default", [last], 1.0)
    assert worn.queues == ["default"]
