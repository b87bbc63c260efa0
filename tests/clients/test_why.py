"""A job tells why it has not run, from what is in the database at that moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from soniq import JobNotFound, TaskRef
from soniq.job.ids import new_id

from .colour import settled

pytestmark = pytest.mark.anyio

NOTE = TaskRef("note")
WORKER = """
    INSERT INTO soniq.workers (id, name, queues, tasks, concurrency, version, seen_at)
    VALUES (%s, 'host:1', %s, %s, 1, '0', now() - make_interval(secs => %s))"""


async def test_each_obstacle_is_told_when_it_is_the_first(
    eq: Any, witness: Callable[..., Any]
) -> None:
    first = await settled(eq.enqueue(NOTE, queue="q"))
    second = await settled(eq.enqueue(NOTE, queue="q"))
    await settled(eq.enqueue(NOTE, queue="q", priority=200))
    assert "No live worker serves" in await settled(eq.why(second))
    witness(WORKER, new_id(), ["q"], ["note"], 600)
    witness(WORKER, new_id(), ["other"], ["note"], 0)
    assert "No live worker serves" in await settled(eq.why(second))
    witness(WORKER, new_id(), None, ["mail"], 0)
    assert "1 live worker serves" in await settled(eq.why(second))
    witness(WORKER, worker := new_id(), ["q"], ["note"], 0)
    assert await settled(eq.why(second)) == "1 job of its queue is before it."
    assert "Nothing stands in its way" in await settled(eq.why(first))
    await settled(eq.queues.pause("q"))
    assert "is paused" in await settled(eq.why(first))
    await settled(eq.queues.resume("q"))
    witness(
        "UPDATE soniq.jobs SET state = 'processing', worker_id = %s WHERE id = %s", worker, first
    )
    assert "It is running: host:1" in await settled(eq.why(first))
    await settled(eq.queues.limit("q", concurrency=1))
    assert "limited to 1 at once" in await settled(eq.why(second))
    await settled(eq.queues.limit("q", concurrency=None, rate_limit="1/hour"))
    assert "over its rate" not in await settled(eq.why(second))
    witness(
        "INSERT INTO soniq.gates (task, key, spent_until) "
        "VALUES ('', 'q', now() + interval '1 hour')"
    )
    assert "'q' is over its rate; the next may start in" in await settled(eq.why(second))
    witness("DELETE FROM soniq.workers")
    assert "no signs of life" in await settled(eq.why(first))


async def test_a_job_that_is_later_or_over_or_unknown(eq: Any) -> None:
    job_id = await settled(eq.enqueue(NOTE, delay=600))
    assert "in 10 minutes" in await settled(eq.why(job_id))
    await settled(eq.queues.purge("default"))
    assert await settled(eq.why(job_id)) == "It was cancelled: purged from its queue."
    with pytest.raises(JobNotFound):
        await settled(eq.why(new_id()))


async def test_a_gate_is_told_of(eq: Any, witness: Callable[..., Any]) -> None:
    first = await settled(eq.enqueue(NOTE, queue="q"))
    second = await settled(eq.enqueue(NOTE, queue="q"))
    witness(WORKER, worker := new_id(), None, ["note"], 0)
    witness("UPDATE soniq.jobs SET gate = 'kacme'")
    witness("INSERT INTO soniq.gates (task, key_concurrency) VALUES ('note', 1)")
    assert await settled(eq.why(second)) == "1 job of its queue is before it."
    witness(
        "UPDATE soniq.jobs SET state = 'processing', worker_id = %s WHERE id = %s", worker, first
    )
    assert "Its key 'acme' is limited to 1 at once" in await settled(eq.why(second))
    witness("UPDATE soniq.gates SET key_concurrency = NULL, concurrency = 1")
    assert "Its task 'note' is limited to 1 at once" in await settled(eq.why(second))
    witness(
        "UPDATE soniq.gates SET concurrency = NULL, rate_seconds = 60, rate_burst = 1, "
        "spent_until = now() + interval '1 minute'"
    )
    assert "'note' is over its rate; the next may start in" in await settled(eq.why(second))
    witness("UPDATE soniq.gates SET rate_seconds = NULL, closed_until = now() + interval '1 hour'")
    assert "circuit breaker" not in await settled(eq.why(second))  # none is declared
    witness("UPDATE soniq.gates SET breaker_failures = 3")
    assert "circuit breaker of its task 'note' is open for" in await settled(eq.why(second))
    witness("UPDATE soniq.gates SET closed_until = now(), probe = %s", first)
    assert f"its task 'note' is open; job {first} tries it" in await settled(eq.why(second))


async def test_what_a_job_in_order_waits_for_is_told(eq: Any, witness: Callable[..., Any]) -> None:
    """A retry that held it, and the jobs of its key before it, were not told of."""
    first, _, third = [await settled(eq.enqueue(NOTE)) for _ in range(3)]
    await settled(eq.enqueue(NOTE))
    witness(WORKER, new_id(), None, ["note"], 0)
    witness("UPDATE soniq.jobs SET gate = 'oacme'")
    witness("INSERT INTO soniq.gates (task) VALUES ('note')")
    assert await settled(eq.why(third)) == "2 jobs of its queue are before it."
    await settled(eq.enqueue(NOTE))  # it has no gate, and is before none of them
    witness(
        "UPDATE soniq.jobs SET state = 'scheduled', attempt = 1, "
        "scheduled_at = now() + interval '1 hour' WHERE id = %s", first
    )  # fmt: skip
    said = f"Job {first} of its key 'acme' waits for its retry first."
    assert (await settled(eq.why(third))).startswith(said)
