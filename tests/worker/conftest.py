"""One application on a clean database, workers beside the test, and facts to wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import anyio
import psycopg
import pytest
from psycopg.rows import tuple_row

from soniq import Soniq
from soniq.db.connection import AnyioConnection
from soniq.events import Event
from soniq.job.record import Job
from soniq.worker.worker import Worker

E = TypeVar("E", bound=Event)

EMPTY = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend';
    TRUNCATE soniq.jobs, soniq.history, soniq.dead_letters, soniq.queues, soniq.workers,
             soniq.watch, soniq.leaders, soniq.gates, soniq.schedules, soniq.keys"""


@pytest.fixture(scope="session")
def kept_database(
    make_database: Callable[..., str], keeper: psycopg.Connection[Any], migrated_template: str
) -> Iterator[str]:
    """One database for all tests of this folder: emptying it takes a tenth of making one."""
    url = make_database(migrated_template)
    yield url
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    keeper.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def database_url(kept_database: str) -> str:
    with psycopg.connect(kept_database, autocommit=True) as connection:
        connection.execute(EMPTY.encode())
    return kept_database


@pytest.fixture
async def app(anyio_backend: Any, database_url: str) -> AsyncIterator[Soniq]:
    async with Soniq(database_url) as made:
        yield made


Ask = Callable[..., Awaitable[list[tuple[Any, ...]]]]


@pytest.fixture
async def ask(anyio_backend: Any, database_url: str) -> AsyncIterator[Ask]:
    """Ask the database from outside; answers rows."""
    async with await outside(database_url) as connection:
        yield asker(connection)


async def outside(url: str) -> AnyioConnection:
    """A connection that has nothing to do with the application's."""
    return await AnyioConnection.connect(url, autocommit=True, row_factory=tuple_row)


def asker(connection: AnyioConnection) -> Ask:
    async def look(sql: str, *params: Any) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(sql.encode(), params or None)
        return await cursor.fetchall() if cursor.description else []

    return look


class Seen:
    """Every event of an application, in order, and a way to wait for one."""

    def __init__(self, app: Soniq) -> None:
        self.all: list[Event] = []
        self._news = anyio.Event()
        app.bus.subscribe(Event, self._take)

    def _take(self, event: Event) -> None:
        self.all.append(event)
        news, self._news = self._news, anyio.Event()
        news.set()

    def of(self, kind: type[E], **fields: Any) -> list[E]:
        return [
            event
            for event in self.all
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def one(self, kind: type[E], seconds: float = 10, **fields: Any) -> E:
        """Wait for the first such event."""
        return (await self.some(1, kind, seconds, **fields))[0]

    async def some(self, count: int, kind: type[E], seconds: float = 10, **fields: Any) -> list[E]:
        """Wait until there are so many of them."""
        with anyio.move_on_after(seconds):
            while len(found := self.of(kind, **fields)) < count:
                await self._news.wait()
            return found
        raise AssertionError(f"{count} x {kind.__name__} {fields} in {seconds} s; saw {self.all}")


@pytest.fixture
async def seen(app: Soniq) -> Seen:
    return Seen(app)


class Hand:
    """A worker beside the test, and the exit code it ended with."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.code: int | None = None
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        try:
            with self.scope:
                self.code = await self.worker.run()
        finally:
            self.ended.set()

    async def stop(self) -> int | None:
        """Drain it; answer the exit code."""
        self.worker.stop()
        with anyio.fail_after(20):
            await self.ended.wait()
        return self.code

    async def die(self) -> None:
        """End it as no worker should end: in the middle of whatever it does."""
        self.scope.cancel()
        await self.ended.wait()


def hired(app: Soniq, *, run_once: bool = False, **settings: Any) -> Worker:
    return Worker(
        app._database,
        app.registry,
        app.settings.with_(**settings),
        hooks=app.hooks,
        bus=app.bus,
        retry_policy=app._app.retry_policy,
        run_once=run_once,
    )


@asynccontextmanager
async def working(app: Soniq, **settings: Any) -> AsyncIterator[Hand]:
    """Run a worker for the length of the block."""
    hand = Hand(hired(app, **settings))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hand.run)
        with anyio.fail_after(10):
            await hand.worker.started.wait()
        try:
            yield hand
        except BaseException:
            tasks.cancel_scope.cancel()
            raise
        if not hand.ended.is_set():
            await hand.stop()


class Held(NamedTuple):
    """A worker with one slot, in which a job waits for `gate`; `behind` are claimed, not begun."""

    hand: Hand
    gate: anyio.Event
    ids: list[str]
    behind: list[str]


@asynccontextmanager
async def held(app: Soniq, *, to_the_last: bool = False) -> AsyncIterator[Held]:
    """Hold a job with others claimed ahead behind it; with all there are, if `to_the_last`.

    How many a worker claims ahead depends on its pace, so jobs are enqueued until it happens.
    """
    holding, gate = anyio.Event(), anyio.Event()
    ids: list[str] = []
    runs: list[None] = []

    @app.job(name="held")
    async def act() -> None:
        runs.append(None)
        behind = len(hand.worker.bench.ready)
        if not holding.is_set() and behind and (not to_the_last or behind == len(ids) - len(runs)):
            holding.set()
            await gate.wait()

    async with working(app, concurrency=1) as hand:
        with anyio.fail_after(30):
            while not holding.is_set():
                ids += await app.enqueue_many(act, [{}] * 300)
                while not holding.is_set() and len(runs) < len(ids):
                    await anyio.sleep(0.01)
        yield Held(hand, gate, ids, [job.id for job in hand.worker.bench.ready])


async def run_once(app: Soniq, **settings: Any) -> Worker:
    """Run whatever is due."""
    worker = hired(app, run_once=True, **settings)
    with anyio.fail_after(20):
        await worker.run()
    return worker


async def eventually(
    fact: Callable[[], Awaitable[Any]], seconds: float = 10, every: float = 0.01
) -> Any:
    """Wait until a fact is one; answer it."""
    found: Any = None
    with anyio.move_on_after(seconds):
        while not (found := await fact()):
            await anyio.sleep(every)
        return found
    raise AssertionError(f"not within {seconds} s; last seen: {found!r}")


async def ended(app: Soniq, job_id: str, seconds: float = 10) -> Job:
    """Wait for a job's end, whatever it is."""

    async def over() -> Job | None:
        job = await app.get_job(job_id)
        return job if job.status.ended else None

    job: Job = await eventually(over, seconds)
    return job


async def idle(ask: Ask, count: int = 1) -> None:
    """Wait until so many workers have said that a notification would be of use."""

    async def all_idle() -> bool:
        return (await ask("SELECT count(*) FROM soniq.workers WHERE idle"))[0][0] == count

    await eventually(all_idle)
