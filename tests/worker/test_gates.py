"""Limits as applications see them: any number of workers, and never more at once than declared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import anyio
import psycopg
import pytest

from soniq import CircuitBreaker, Soniq, TaskRef
from soniq.events import BreakerOpened, JobFinished, JobStarted
from soniq.job import JobContext
from soniq.job.record import Claimed
from soniq.worker import fetch

from .conftest import Ask, Seen, eventually, idle, run_once, working

pytestmark = pytest.mark.anyio


class Gauge:
    """Counts what runs, by key, and remembers the most."""

    def __init__(self) -> None:
        self.now: Counter[object] = Counter()
        self.most: Counter[object] = Counter()
        self.began: list[object] = []

    @contextmanager
    def run(self, key: object) -> Iterator[None]:
        self.now[key] += 1
        self.most[key] = max(self.most[key], self.now[key])
        self.began.append(key)
        try:
            yield
        finally:
            self.now[key] -= 1


async def done(ask: Ask, number: int) -> None:
    async def all_done() -> bool:
        rows = await ask("SELECT count(*) FROM soniq.history WHERE state = 'done'")
        return bool(rows == [(number,)])

    await eventually(all_done, 30)


async def test_a_task_runs_no_more_jobs_at_once_than_it_declares_over_all_workers(
    app: Soniq, ask: Ask
) -> None:
    gauge = Gauge()

    @app.job(concurrency=3)
    async def act(n: int) -> None:
        with gauge.run("act"):
            await anyio.sleep(0.002)

    @app.job
    async def free() -> None: ...

    async with working(app), working(app), working(app):
        await app.enqueue_many(act, [{"n": n} for n in range(600)])  # by COPY
        for n in range(20):
            await app.enqueue(act, n)
            await app.enqueue(free)
        await done(ask, 640)
    assert gauge.most["act"] == 3


async def test_each_key_has_its_own_limit(app: Soniq, ask: Ask) -> None:
    gauge = Gauge()

    @app.job(concurrency=2, concurrency_key=lambda account, **_: account % 5)
    async def act(account: int, ctx: JobContext) -> None:
        with gauge.run(account % 5):
            await anyio.sleep(0.002)

    async with working(app, concurrency=20), working(app, concurrency=20):
        await app.enqueue_many(act, [(n,) for n in range(600)])
        for n in range(20):
            await app.enqueue(act, n)
        await done(ask, 620)
    assert dict(gauge.most) == dict.fromkeys(range(5), 2)


async def test_keys_in_order_run_in_the_order_of_their_enqueue_even_when_they_fail(
    app: Soniq, ask: Ask
) -> None:
    ran: dict[str, list[int]] = {"a": [], "b": []}

    @app.job(ordered_by="key", max_retries=2, retry_delay=0.02)
    async def act(key: str, n: int, ctx: JobContext) -> None:
        ran[key].append(n)
        if n % 7 == 0 and ctx.attempt < 3:
            raise ValueError(n)

    for n in range(20):
        await app.enqueue_many(act, [{"key": "a", "n": n}, {"key": "b", "n": n}])
    async with working(app), working(app):
        await done(ask, 40)
    wanted = [n for n in range(20) for _ in range(3 if n % 7 == 0 else 1)]
    assert ran == {"a": wanted, "b": wanted}


async def test_a_retry_that_steps_aside_lets_the_others_pass(app: Soniq, ask: Ask) -> None:
    ran: list[int] = []

    @app.job(ordered_by="key", ordered_retry="step_aside", retry_delay=0.2)
    async def act(n: int, ctx: JobContext, key: str = "a") -> None:
        ran.append(n)
        if n == 0 and ctx.attempt == 1:
            raise ValueError(n)

    await app.enqueue_many(act, [(n,) for n in range(4)])
    async with working(app):
        await done(ask, 4)
    assert ran == [0, 1, 2, 3, 0]


async def test_jobs_that_came_without_their_gate_keep_to_the_limit(app: Soniq, ask: Ask) -> None:
    """From the SQL function, by a name, and made again of what has ended."""
    gauge = Gauge()

    @app.job(name="act", concurrency=1, concurrency_key="key", max_retries=0)
    async def act(key: str) -> None:
        with gauge.run(key):
            await anyio.sleep(0.002)
            if key == "bad":
                raise ValueError(key)

    first = await app.enqueue(act, "a")
    bad = await app.enqueue(act, "bad")
    await run_once(app)
    for _ in range(10):
        await ask("SELECT soniq.enqueue('act', '{\"key\": \"a\"}')")
        await app.enqueue(TaskRef("act"), key="a")
        await app.retry_job(first)
        await app.dead_letter.replay(bad)
    await ask("SELECT soniq.enqueue('act', '{}', max_retries => 0)")  # no key can be made of this
    async with working(app), working(app):
        await done(ask, 31)

        async def all_ended() -> bool:
            return await ask("SELECT count(*) FROM soniq.jobs") == [(0,)]

        await eventually(all_ended)
    assert dict(gauge.most) == {"a": 1, "bad": 1}
    spent = await ask("SELECT DISTINCT attempt FROM soniq.history")
    assert spent == [(1,)]  # to be put behind a gate costs no attempt


async def test_an_idle_worker_takes_the_place_that_a_stopping_one_leaves(
    app: Soniq, seen: Seen, ask: Ask
) -> None:
    """It is told: its next poll is a minute away."""
    gate = anyio.Event()

    @app.job(concurrency=1)
    async def act() -> None:
        await gate.wait()

    async with working(app, concurrency=1) as first:
        await app.enqueue(act)
        await seen.one(JobStarted)
        async with working(app, poll_interval=60):
            await app.enqueue(act)
            await idle(ask, 2 if first.worker.bench.idle else 1)
            await anyio.sleep(0.5)  # the quick looks of one that has just gone idle
            first.worker.stop()
            gate.set()
            with anyio.fail_after(10):
                await seen.some(2, JobFinished)


async def test_a_limit_that_the_code_no_longer_has_leaves_no_job_behind(
    app: Soniq, ask: Ask, database_url: str
) -> None:
    @app.job(name="act", concurrency=1)
    async def limited() -> None: ...

    await app.enqueue_many(limited, [{}] * 5)
    async with Soniq(database_url) as later:

        @later.job(name="act")
        async def free() -> None: ...

        await run_once(later)
    await done(ask, 5)


async def test_plain_jobs_and_jobs_behind_gates_take_turns_in_one_slot(
    app: Soniq, ask: Ask
) -> None:
    ran: list[str] = []

    @app.job(concurrency=5)
    async def gated() -> None:
        ran.append("gated")

    @app.job
    async def plain() -> None:
        ran.append("plain")

    await app.enqueue_many(gated, [{}] * 300)
    await app.enqueue_many(plain, [{}] * 300)
    await run_once(app, concurrency=1)
    await done(ask, 600)
    assert {"gated", "plain"} == set(ran[:100])


async def test_a_slow_job_does_not_hold_others_that_were_claimed_with_it(
    app: Soniq, seen: Seen
) -> None:
    """With one slot at the gate, nothing of this task is claimed ahead of a slow job."""
    gate = anyio.Event()

    @app.job(concurrency=1, concurrency_key="key")
    async def act(key: str) -> None:
        if key == "slow":
            await gate.wait()

    async with working(app, concurrency=1), working(app, concurrency=1):
        await app.enqueue(act, "slow")
        await seen.one(JobStarted)
        await app.enqueue_many(act, [(f"k{n}",) for n in range(20)])
        await seen.some(20, JobFinished)
        gate.set()
        await seen.some(21, JobFinished)


async def test_a_limit_of_a_queue_holds_for_all_workers_and_can_be_changed_meanwhile(
    app: Soniq, ask: Ask
) -> None:
    gauge = Gauge()

    @app.job
    async def act() -> None:
        with gauge.run("queue"):
            await anyio.sleep(0.002)

    @app.job(fair_by="key")
    async def fair(key: int) -> None:
        with gauge.run("queue"):
            await anyio.sleep(0.002)

    await app.queues.limit("default", concurrency=2)
    async with working(app), working(app):
        await app.enqueue_many(act, [{}] * 100)
        await app.enqueue_many(fair, [(n % 7,) for n in range(100)])
        await done(ask, 200)
        assert gauge.most["queue"] == 2
        await app.queues.limit("default", concurrency=4)
        await app.enqueue_many(act, [{}] * 200)
        await done(ask, 400)
    assert gauge.most["queue"] == 4


async def test_a_rate_is_kept_by_the_clock_of_the_database(app: Soniq, ask: Ask) -> None:
    @app.job(rate_limit="50/s", rate_burst=5)
    async def act() -> None: ...

    async with working(app), working(app):
        await app.enqueue_many(act, [{}] * 60)
        await done(ask, 60)
    rows = await ask(
        "SELECT extract(epoch FROM started_at - min(started_at) OVER ()) FROM soniq.history"
    )
    starts = sorted(float(row[0]) for row in rows)
    # A claim's moment is that of its statement's begin, which may have waited for its turn.
    for window in (0.1, 0.5, 1.0):
        most = max(sum(a <= start < a + window for start in starts) for a in starts)
        assert most <= 5 + window * 50 + 1
    assert starts[-1] >= (60 - 5) / 50 - 0.02


async def test_a_breaker_stops_what_fails_and_tries_it_again(app: Soniq, ask: Ask) -> None:
    broken = True

    @app.job(breaker=CircuitBreaker(3, window=60, pause=0.3), retry_delay=0.01, max_retries=100)
    async def act() -> None:
        if broken:
            await anyio.sleep(0.05)
            raise ConnectionError("nobody there")

    async def closed() -> bool:
        return await ask("SELECT task FROM soniq.gates WHERE closed_until > now()") != []

    async def tried_with_one() -> bool:
        return await ask("SELECT task FROM soniq.gates WHERE probe IS NOT NULL") != []

    async with working(app, concurrency=1):
        await app.enqueue_many(act, [{}] * 20)
        await eventually(closed)
        await eventually(tried_with_one, every=0.001)
        await eventually(closed)
        broken = False
        await done(ask, 20)
    assert await ask("SELECT task FROM soniq.gates WHERE closed_until IS NOT NULL") == []


@pytest.mark.parametrize("notify", ["auto", "off"])
async def test_an_open_breaker_hands_back_what_was_claimed_ahead_and_is_told_of(
    app: Soniq, seen: Seen, ask: Ask, monkeypatch: pytest.MonkeyPatch, notify: str
) -> None:
    """The others of the key ran all the same, and failed; here, and in workers that can be told."""
    monkeypatch.setattr(fetch, "HOLD_SECONDS", 60.0)  # or they go back by themselves
    gate, ran = anyio.Event(), list[str]()

    @app.job(fair_by="host", breaker=CircuitBreaker(1, window=60, pause=600, by_key=True))
    async def act(host: str, first: bool = False) -> None:
        ran.append(host)
        if first:
            await gate.wait()
            raise ConnectionError("nobody there")
        await handed_back.wait()

    @app.job
    async def block() -> None:
        await handed_back.wait()

    handed_back = anyio.Event()
    often = {"concurrency": 1, "notify": notify, "poll_interval": 0.2}
    async with working(app, **often) as failing, working(app, **often) as other:
        await app.enqueue(act, "bad", first=True)
        await seen.one(JobStarted)
        await app.enqueue(block)
        await seen.some(2, JobStarted)
        first, second = failing.worker, other.worker
        ((holder,),) = await ask(
            "SELECT CAST(worker_id AS text) FROM soniq.jobs WHERE gate = 'kbad'"
        )
        if holder != first.id:
            first, second = second, first
        told = [first, second] if notify == "auto" else [first]
        for worker in told:
            good, bad = await app.enqueue(act, "good"), await app.enqueue(act, "bad")
            await ask(
                "UPDATE soniq.jobs SET state = 'processing', attempt = 1, worker_id = %s "
                "WHERE id IN (%s, %s)", worker.id, bad, good,
            )  # fmt: skip
            worker.bench.feed([ahead(good, act.name, "good"), ahead(bad, act.name, "bad")])
        gate.set()
        await seen.one(BreakerOpened)

        async def all_back() -> bool:
            rows = await ask("SELECT state, attempt FROM soniq.jobs WHERE gate = 'kbad' ORDER BY 2")
            return rows == [*[("queued", 0)] * len(told), ("scheduled", 1)]

        await eventually(all_back)
        handed_back.set()
        await done(ask, 1 + len(told))
    assert ran.count("bad") == 1
    assert seen.of(BreakerOpened) == [BreakerOpened(act.name, "bad", 600.0, again=False)]


def ahead(job_id: str, task: str, host: str) -> Claimed:
    """A job as a worker holds it that claimed it ahead."""
    now = datetime.now(UTC)
    args = json.dumps({"host": host})
    return Claimed(job_id, task, "default", args, 1, 4, 0, 100, now, now, None, None, None)


async def test_who_serves_another_queue_hears_that_the_task_has_room(
    app: Soniq, seen: Seen, ask: Ask, database_url: str
) -> None:
    """Whoever ran the last one could not take the next, and an idle worker that could, polled."""

    @app.job(concurrency=1)
    async def act() -> None:
        await gate.wait()

    gate = anyio.Event()
    async with working(app, queues=["a"]) as first, working(app, queues=["b"], poll_interval=60):
        await app.enqueue(act.options(queue="a"))
        await seen.one(JobStarted)
        await app.enqueue(act.options(queue="b"))
        await idle(ask, 2 if first.worker.bench.idle else 1)
        with psycopg.connect(database_url, autocommit=True) as ear:
            ear.execute(b"LISTEN soniq")
            gate.set()
            await seen.some(2, JobFinished)
            heard = [note.payload for note in ear.notifies(timeout=5, stop_after=1)]
    assert heard[:1] == ["q:*"]


async def test_limits_hold_where_the_role_asks_for_other_transactions(
    app: Soniq, ask: Ask, database_url: str
) -> None:
    """Claims said that they need transactions that are read committed, and nothing ran."""
    gauge = Gauge()

    @app.job(concurrency=1)
    async def act(n: int) -> None:
        with gauge.run("act"):
            await anyio.lowlevel.checkpoint()

    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    try:
        await ask(f"""ALTER ROLE CURRENT_USER IN DATABASE "{name}"
                      SET default_transaction_isolation = 'serializable'""")
        await app.enqueue_many(act, [(n,) for n in range(9)])
        await run_once(app)
    finally:
        await ask(f"""ALTER ROLE CURRENT_USER IN DATABASE "{name}" RESET ALL""")
    await done(ask, 9)
    assert gauge.most == {"act": 1}
