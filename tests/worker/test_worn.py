"""Claims that begin above a worn head, and the sweeps that find what they overlook."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest

from soniq import Soniq
from soniq.job.ids import new_id
from soniq.job.record import Claimed, JobStatus
from soniq.worker.worn import CLAIMS

from .conftest import ended, working

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("priority", [1, 100, 900])
async def test_a_job_below_where_claims_begin_is_found_by_a_sweep(
    app: Soniq, priority: int
) -> None:
    @app.job
    async def note() -> None: ...

    async with working(app) as hand:
        # As after jobs of an hour hence, behind a head that takes a second to pass.
        far = datetime(9000, 1, 1, tzinfo=UTC)
        last = Claimed(new_id(), note.name, "default", "{}", 1, 4, 0, 100, far, far, *[None] * 3)
        worn = hand.worker.bench.worn
        for _ in range(CLAIMS):
            worn.claimed("default", [last], 1.0)
        assert worn.queues == ["default"]
        job_id = await app.enqueue(note.options(priority=priority))
        await anyio.sleep(0)
        hand.worker.bench.wake_sweep.ring()
        assert (await ended(app, job_id)).status is JobStatus.DONE
