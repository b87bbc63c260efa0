"""Queues are looked at, paused, limited, emptied and moved while everything runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from soniq import InvalidOption, JobStatus, TaskRef
from soniq.store import queues as store

from .colour import settled

pytestmark = pytest.mark.anyio

NOTE = TaskRef("note")
MAIL = TaskRef("mail")


async def ids(eq: Any, task: TaskRef, count: int, **options: Any) -> list[str]:
    made: list[str] = await settled(
        eq.enqueue_many(task, [{"n": n} for n in range(count)], **options)
    )
    return made


async def state(eq: Any, job_id: str) -> str:
    return str((await settled(eq.get_job(job_id))).status)


async def test_a_queue_nobody_knows_is_empty(eq: Any) -> None:
    assert await settled(eq.queues.list()) == []
    queue = await settled(eq.queues.get("new"))
    assert (queue.queue, queue.queued, queue.paused, queue.workers) == ("new", 0, False, 0)
    assert queue.oldest_seconds is queue.concurrency is queue.rate_limit is None


async def test_one_queue_is_told_as_it_is_in_the_list(eq: Any) -> None:
    await ids(eq, NOTE, 2, queue="one")
    await ids(eq, NOTE, 1, queue="one", delay=60)
    await ids(eq, NOTE, 1, queue="two")
    one, two = await settled(eq.queues.list())
    again = await settled(eq.queues.get("one"))
    assert (one.queued, one.scheduled, two.queued) == (2, 1, 1)
    assert 0 <= again.oldest_seconds < 60
    assert {**again, "oldest_seconds": 0} == {**one, "oldest_seconds": 0}
    assert [q.queue for q in await settled(eq.get_queue_stats())] == ["one", "two"]


async def test_workers_that_serve_a_queue_are_counted_while_they_live(
    eq: Any, witness: Callable[..., Any]
) -> None:
    for queues, silent, rates in (
        (None, 0, '{"one": 1.5}'), (["one"], 0, '{"one": 2}'), (["two"], 0, None),
        (None, 600, '{"one": 99}'),
    ):  # fmt: skip
        witness(
            "INSERT INTO soniq.workers (id, name, queues, concurrency, version, seen_at, rates) "
            "VALUES (gen_random_uuid(), 'w', %s, 1, '0', now() - make_interval(secs => %s), %s)",
            queues, silent, rates,
        )  # fmt: skip
    queue = await settled(eq.queues.get("one"))
    assert (queue.workers, queue.rate) == (2, 3.5)


async def test_a_pause_is_kept_and_taken_back(eq: Any) -> None:
    await settled(eq.queues.pause("one"))
    queue = await settled(eq.queues.get("one"))
    assert (queue.paused, queue.paused_until) == (True, None)
    assert await settled(eq.queues.resume("one")) is True
    assert (await settled(eq.queues.get("one"))).paused is False
    assert await settled(eq.queues.resume("one")) is False
    assert await settled(eq.queues.resume("never seen")) is False


async def test_a_pause_ends_by_itself(eq: Any) -> None:
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    await settled(eq.queues.pause("one", until=moment))
    assert (await settled(eq.queues.get("one"))).paused_until == moment
    await settled(eq.queues.pause("one", until=timedelta(minutes=5)))
    left = (await settled(eq.queues.get("one"))).paused_until - datetime.now(UTC)
    assert timedelta(minutes=4) < left < timedelta(minutes=6)
    await settled(eq.queues.pause("one", until=0))
    queue = await settled(eq.queues.get("one"))
    assert (queue.paused, queue.paused_until) == (False, None)
    assert await settled(eq.queues.resume("one")) is False


async def test_what_is_said_of_a_queue_is_changed_one_by_one(eq: Any) -> None:
    limit = eq.queues.limit
    await settled(limit("one", concurrency=5, rate_limit="100/minute", rate_burst=10))
    await settled(limit("one", max_depth=1000, aging=timedelta(minutes=1)))
    queue = await settled(eq.queues.get("one"))
    said = (queue.concurrency, queue.rate_limit, queue.rate_burst, queue.max_depth, queue.on_full)
    assert said == (5, "100/minute", 10, 1000, "raise")
    assert queue.aging == 60
    await settled(limit("one", concurrency=None, rate_limit=None, on_full="wait", aging=None))
    queue = await settled(eq.queues.get("one"))
    said = (queue.concurrency, queue.rate_limit, queue.rate_burst, queue.max_depth, queue.on_full)
    assert said == (None, None, None, 1000, "wait")
    assert queue.aging is None
    await settled(limit("one", max_depth=None))
    assert (await settled(eq.queues.get("one"))).on_full is None


async def test_limits_and_pauses_do_not_touch_one_another(eq: Any) -> None:
    await settled(eq.queues.limit("one", concurrency=5))
    await settled(eq.queues.pause("one"))
    await settled(eq.queues.limit("one", max_depth=10))
    queue = await settled(eq.queues.get("one"))
    assert (queue.paused, queue.concurrency, queue.max_depth) == (True, 5, 10)
    await settled(eq.queues.resume("one"))
    assert (await settled(eq.queues.get("one"))).concurrency == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "something to change"),
        ({"concurrency": 0}, "from 1 to 2000000000"),
        ({"concurrency": True}, "from 1 to 2000000000"),
        ({"max_depth": 1.5}, "from 1 to 2000000000"),
        ({"rate_limit": "often"}, "'100/minute'"),
        ({"on_full": "explode", "max_depth": 5}, "raise, drop_oldest, wait"),
        ({"aging": 0.5}, "at least one second"),
        ({"aging": -1}, "between 0 seconds"),
        ({"rate_burst": 5}, "without rate_limit"),
        ({"on_full": "wait"}, "without max_depth"),
        ({"max_depth": None, "on_full": "wait"}, "without max_depth"),
    ],
)
async def test_what_means_nothing_is_refused(
    eq: Any, witness: Callable[..., Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOption, match=words):
        await settled(eq.queues.limit("one", **changes))
    assert witness("SELECT name FROM soniq.queues") == []


async def test_names_and_moments_that_cannot_be_are_refused(eq: Any) -> None:
    queues = eq.queues
    for call in (
        lambda: queues.pause(" "),
        lambda: queues.pause("q", until=datetime(2100, 1, 1)),  # noqa: DTZ001
        lambda: queues.pause("q", until=-1),
        lambda: queues.resume("x" * 129),
        lambda: queues.get(""),
        lambda: queues.limit("nul\0", concurrency=1),
        lambda: queues.purge("q", state="processing"),
        lambda: queues.move("q", "q"),
        lambda: queues.move("q", ""),
    ):
        with pytest.raises(InvalidOption):
            await settled(call())


async def test_purged_jobs_are_found_again_as_cancelled(
    eq: Any, witness: Callable[..., Any]
) -> None:
    waiting = await ids(eq, NOTE, 3, queue="one")
    later = await ids(eq, NOTE, 1, queue="one", delay=60)
    mails = await ids(eq, MAIL, 1, queue="one")
    running = await ids(eq, NOTE, 1, queue="one")
    witness(
        "UPDATE soniq.jobs SET state = 'processing', worker_id = gen_random_uuid() WHERE id = %s",
        running[0],
    )
    await ids(eq, NOTE, 1, queue="two")
    purge = eq.queues.purge
    assert await settled(purge("one", preview=True)) == 5
    assert await settled(purge("one", state="scheduled", preview=True)) == 1
    assert await settled(purge("one", state="queued", task="note")) == 3
    job = await settled(eq.get_job(waiting[0]))
    assert (job.status, job.reason) == (JobStatus.CANCELLED, "purged from its queue")
    assert [await state(eq, each[0]) for each in (later, mails)] == ["scheduled", "queued"]
    assert await settled(purge("one")) == 2
    assert await state(eq, running[0]) == "processing"
    assert await settled(purge("one")) == 0
    assert (await settled(eq.queues.get("two"))).queued == 1


async def test_moved_jobs_stay_who_they_are(eq: Any) -> None:
    waiting = await ids(eq, NOTE, 2, queue="one", priority=7)
    later = await ids(eq, NOTE, 1, queue="one", delay=60)
    move = eq.queues.move
    assert await settled(move("one", "two", preview=True)) == 3
    assert await settled(move("one", "two", task=MAIL.name)) == 0
    assert await settled(move("one", "two")) == 3
    for job_id in waiting:
        job = await settled(eq.get_job(job_id))
        assert (job.queue, job.priority, job.status) == ("two", 7, JobStatus.QUEUED)
    assert await state(eq, later[0]) == "scheduled"


async def test_more_than_a_batch_is_sent_in_batches(
    eq: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH", 3)
    await ids(eq, NOTE, 7, queue="one")
    assert await settled(eq.queues.move("one", "two")) == 7
    assert await settled(eq.queues.purge("two")) == 7


async def test_all_of_it_happens_in_a_lent_transaction(
    eq: Any, connect: Callable[..., Any], witness: Callable[..., Any]
) -> None:
    await ids(eq, NOTE, 2, queue="one")
    connection = await connect()
    bound = eq.within(connection)
    await settled(bound.queues.pause("one"))
    await settled(bound.queues.limit("two", concurrency=1))
    with pytest.raises(InvalidOption):
        await settled(bound.queues.limit("one", on_full="wait"))
    assert await settled(bound.queues.move("one", "two", task="note")) == 2
    assert await settled(bound.queues.purge("two")) == 2
    assert (await settled(bound.queues.get("one"))).paused
    assert witness("SELECT name FROM soniq.queues") == []
    await settled(connection.rollback())
    assert (await settled(eq.queues.get("one"))).queued == 2
