"""A bounded queue refuses, drops or has clients wait; others never notice that bounds exist."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from soniq import QueueFull, SoniqSync, TaskRef
from soniq.policy.bounds import FRESH_SECONDS, Bounds

from .colour import settled

pytestmark = pytest.mark.anyio

NOTE = TaskRef("note", queue="q")
Stored = Callable[[], int]


async def bound(eq: Any, most: int, on_full: str = "raise") -> None:
    await settled(eq.queues.limit("q", max_depth=most, on_full=on_full))


async def test_a_full_queue_refuses_and_says_so(eq: Any, stored: Stored) -> None:
    await bound(eq, 2)
    first = await settled(eq.enqueue(NOTE, n=1))
    await settled(eq.schedule(NOTE, 60, n=2))
    with pytest.raises(QueueFull, match="'q' is full: 1 job more") as caught:
        await settled(eq.enqueue(NOTE, n=3))
    assert (caught.value.queue, caught.value.may_wait) == ("q", False)
    assert stored() == 2
    await settled(eq.enqueue(NOTE, n=4, queue="other"))
    await settled(eq.cancel_job(first))
    await settled(eq.enqueue(NOTE, n=5))


@pytest.mark.parametrize("count", [3, 600])
async def test_a_bulk_comes_in_whole_or_not_at_all(eq: Any, stored: Stored, count: int) -> None:
    await bound(eq, count + 1)
    rows = [{"n": n} for n in range(count)]
    assert len(await settled(eq.enqueue_many(NOTE, rows))) == count
    with pytest.raises(QueueFull, match=f"{count:,} jobs more"):
        await settled(eq.enqueue_many(NOTE, rows))
    with pytest.raises(QueueFull, match="can never take"):
        await settled(eq.enqueue_many(NOTE, [*rows, {}, {}]))
    assert stored() == count
    assert await settled(eq.enqueue_stream(NOTE, ({"n": n} for n in range(1)))) == 1
    with pytest.raises(QueueFull, match="1 job more"):
        await settled(eq.enqueue_stream(NOTE, iter([{}])))


async def test_a_stream_that_cannot_fit_is_not_read_to_its_end(eq: Any, stored: Stored) -> None:
    await bound(eq, 600)
    with pytest.raises(QueueFull, match="can never take"):
        await settled(eq.enqueue_stream(NOTE, ({"n": n} for n in iter(int, 1))))
    assert stored() == 0


async def test_calls_of_several_queues_are_counted_for_each(eq: Any, stored: Stored) -> None:
    @eq.job("mail")
    def mail(n: int) -> None: ...

    await bound(eq, 2)
    calls = [mail.options(queue=queue).call(1) for queue in ("q", "free", "q", "free", "free")]
    await settled(eq.enqueue_many(calls))
    with pytest.raises(QueueFull, match="'q' is full: 1 job more"):
        await settled(eq.enqueue_many(calls[:2]))
    assert stored() == 5


async def test_a_refusal_does_not_abort_a_lent_transaction(
    eq: Any, connect: Callable[..., Any], stored: Stored
) -> None:
    await bound(eq, 1, "wait")
    connection = await connect()
    await settled(connection.execute("CREATE TEMPORARY TABLE mine (n integer)"))
    bounded = eq.within(connection)
    await settled(bounded.enqueue(NOTE, n=1))
    for attempt in (
        lambda: bounded.enqueue(NOTE, n=2),
        lambda: bounded.enqueue_many(NOTE, [{}]),
        lambda: eq.enqueue(NOTE, connection=connection),
    ):
        with pytest.raises(QueueFull):
            await settled(attempt())
    await settled(connection.execute("INSERT INTO mine VALUES (1)"))
    assert stored() == 0
    await settled(connection.rollback())
    await settled(eq.enqueue(NOTE, n=3))
    assert stored() == 1


async def test_the_oldest_make_room(eq: Any) -> None:
    await bound(eq, 2, "drop_oldest")
    ids = [await settled(eq.enqueue(NOTE, n=n)) for n in range(4)]
    jobs = [await settled(eq.get_job(job_id)) for job_id in ids]
    assert [str(job.status) for job in jobs] == ["cancelled", "cancelled", "queued", "queued"]
    assert jobs[0].reason == "dropped: its queue was full"


async def test_an_enqueue_waits_for_room_if_the_queue_asks_for_that(
    eq: Any, database_url: str, stored: Stored
) -> None:
    await bound(eq, 1, "wait")
    first = await settled(eq.enqueue(NOTE, n=1))
    refused = threading.Event()

    def make_room() -> None:
        refused.wait(30)
        with SoniqSync(database_url) as operator:
            operator.cancel_job(first)

    real = eq._run_on

    def noting(*args: Any, **kwargs: Any) -> Any:
        tries.append(None)
        if len(tries) > 2:
            refused.set()
        return real(*args, **kwargs)

    tries: list[None] = []
    eq._run_on = noting
    helper = threading.Thread(target=make_room)
    helper.start()
    with anyio.fail_after(30):
        second = await settled(eq.enqueue_many(NOTE, ({"n": n} for n in (2,))))
    helper.join(30)
    assert len(tries) > 2
    assert (await settled(eq.get_job(second[0]))).args == {"n": 2}
    assert stored() == 1


async def test_it_waits_no_longer_than_it_may(
    make_client: Callable[..., Any], database_url: str
) -> None:
    eq = make_client(database_url, full_timeout=0.05)
    await bound(eq, 1, "wait")
    await settled(eq.enqueue(NOTE, n=1))
    with pytest.raises(QueueFull) as caught:
        await settled(eq.enqueue(NOTE, n=2))
    assert caught.value.may_wait
    with pytest.raises(QueueFull, match="can never take"):
        await settled(eq.enqueue_many(NOTE, [{}, {}]))


async def test_a_bound_said_elsewhere_is_obeyed_within_seconds(
    eq: Any, make_client: Callable[..., Any], database_url: str
) -> None:
    now = 0.0
    eq._app.bounds = Bounds(lambda: now)
    await settled(eq.enqueue(NOTE, n=1))
    await bound(make_client(database_url), 1)
    await settled(eq.enqueue(NOTE, n=2))
    now = FRESH_SECONDS
    with pytest.raises(QueueFull):
        await settled(eq.enqueue(NOTE, n=3))
    await settled(make_client(database_url).queues.limit("q", max_depth=None))
    await settled(eq.enqueue(NOTE, n=4))


async def test_an_unbounded_queue_is_asked_nothing_for_seconds(eq: Any) -> None:
    await settled(eq.enqueue(NOTE, n=1))
    eq._app.bounds.clock = lambda: 0.0
    asked: list[Any] = []
    real = eq._run_on

    def noting(connection: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(operation.__name__)
        return real(connection, operation, *args, **kwargs)

    eq._run_on = noting
    await settled(eq.enqueue(NOTE, n=2))
    await settled(eq.enqueue(NOTE, n=3))
    assert asked == ["enqueue", "enqueue"]
