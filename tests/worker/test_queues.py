"""One worker that serves many queues: whose jobs it takes, and in which turns they run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio
import pytest

from soniq import JobContext, Soniq
from soniq.db.session import Session
from soniq.job.ids import new_id
from soniq.job.outcome import Interrupted
from soniq.job.record import Claimed
from soniq.policy import turns
from soniq.worker import take
from soniq.worker.take import Taker

from .conftest import ended, hired, run_once, working

pytestmark = pytest.mark.anyio


def _job(queue: str, priority: int = 100, *, cancel: bool = False) -> Claimed:
    now = datetime.now(UTC)
    rest = (None, "[]", None, cancel)
    return Claimed(new_id(), "note", queue, "{}", 1, 4, 0, priority, now, now, *rest)


async def test_ready_jobs_take_turns_by_queue_whenever_they_were_claimed(app: Soniq) -> None:
    bench = hired(app).bench
    deep, shallow, other = ([_job(queue) for _ in range(4)] for queue in ("deep", "sh", "other"))
    bench.feed(deep[::-1])
    bench.feed(shallow[:1])
    assert list(bench.ready) == [deep[0], shallow[0], *deep[1:]]
    bench.feed(shallow[1:2])
    assert list(bench.ready) == [deep[0], shallow[0], deep[1], shallow[1], *deep[2:]]
    bench.ready.popleft()
    bench.feed(other[:2])
    assert list(bench.ready) == [
        shallow[0], deep[1], other[0], shallow[1], deep[2], other[1], deep[3],
    ]  # fmt: skip


async def test_ready_jobs_of_one_queue_keep_their_order(app: Soniq) -> None:
    bench = hired(app).bench
    late, urgent, stopped = _job("one"), _job("one", 1), _job("one", 2, cancel=True)
    bench.feed([late, urgent, stopped])
    assert list(bench.ready) == [urgent, late]
    assert [job for job, _, _ in bench.ended] == [stopped]
    bench.feed([soon := _job("one", 1)])
    assert list(bench.ready) == [urgent, late, soon]


async def test_what_a_fenced_worker_still_claimed_goes_back(app: Soniq) -> None:
    bench = hired(app).bench
    bench.fenced = True
    bench.feed([job := _job("one")])
    assert list(bench.ready) == []
    assert bench.ended == [(job, None, Interrupted())]


async def test_more_queues_than_a_claim_asks_are_all_served(app: Soniq) -> None:
    ran: Counter[str] = Counter()

    @app.job
    async def note(ctx: JobContext) -> None:
        ran[ctx.queue] += 1

    names = [f"queue-{n}" for n in range(70)]
    for name in names:
        await app.enqueue_many(note.options(queue=name), [{}] * 3)
    await run_once(app)
    assert ran == Counter(dict.fromkeys(names, 3))


@pytest.fixture
async def taker(app: Soniq, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Taker]:
    """What it learns of shallow queues, it keeps for longer than any test takes."""
    monkeypatch.setattr(turns, "SHALLOW_SECONDS", 600.0)
    monkeypatch.setattr(take, "MIXED_SECONDS", 600.0)
    session = Session(app._database)
    yield Taker(hired(app, concurrency=10, prefetch=500).bench, session)
    await session.close()


async def test_a_shallow_queue_is_asked_by_each_claim_without_a_look(
    app: Soniq, taker: Taker
) -> None:
    """Its next job waited for a look, 10 ms at best, and for a claim after that."""
    note, bench = app.job("note")(_note), taker._bench
    taker.tasks = [note.name]
    await app.enqueue_many(note.options(queue="deep"), [{}] * 50)
    await app.enqueue(note.options(queue="shallow"))
    assert await taker.take(taker.room())
    taker._look_at = float("inf")
    bench.ready.clear()
    await app.enqueue(note.options(queue="shallow"))
    assert await taker.take(taker.room())
    assert Counter(job.queue for job in bench.ready) == {"deep": 10, "shallow": 1}


async def test_less_is_claimed_ahead_while_a_queue_is_shallow(app: Soniq, taker: Taker) -> None:
    """The claim after that is the next one to ask the shallow queue."""
    note, bench = app.job("note")(_note), taker._bench
    taker.tasks = [note.name]
    bench.finished = 1_000_000_000
    await anyio.sleep(0.03)  # a pace needs a time
    assert taker.room() == 10 + 500
    await app.enqueue_many(note.options(queue="deep"), [{}] * 50)
    await app.enqueue(note.options(queue="shallow"))
    assert await taker.take(10)
    bench.ready.clear()
    assert taker.room() == 10 + take.MOST_BESIDE_SHALLOW


async def _note() -> None: ...


async def test_a_busy_worker_finds_a_new_queue_long_before_its_own_is_empty(app: Soniq) -> None:
    """It looked once a second, and jobs of a shallow queue waited for that."""
    over = False

    @app.job
    async def deep() -> None:
        if not over:
            await app.enqueue(deep)

    @app.job(queue="shallow")
    async def shallow() -> None: ...

    await app.enqueue_many(deep, [{}] * 20)
    async with working(app, concurrency=5, notify="off") as hand:
        while hand.worker.bench.idle or hand.worker.processed < 20:
            await anyio.sleep(0.001)
        began = time.monotonic()
        for _ in range(8):
            await ended(app, await app.enqueue(shallow))
        passed = time.monotonic() - began
        over = True
    assert passed < 4
