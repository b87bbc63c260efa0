"""Each line marked `wrong` must be red in mypy and in pyright, and no other."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from soniq import Soniq, SoniqSync
from soniq.integrations.sqlalchemy import within
from soniq.job import JobContext

eq = Soniq()
sync = SoniqSync()


@eq.job
async def task(user_id: int, subject: str = "") -> None: ...


@sync.job()
def with_context(ctx: JobContext, user_id: int) -> None: ...


async def mistakes() -> None:
    await task.enqueue("one")  # wrong
    await task.enqueue(usr_id=1)  # wrong
    await task.enqueue()  # wrong
    await task.enqueue(1, "x", 2)  # wrong
    await task.options(queue="x").enqueue("one")  # wrong
    await eq.enqueue(5)  # wrong
    await eq.enqueue(task, 1, priority="high")  # wrong
    await eq.wait("x", timeout="long")  # wrong


def more_mistakes() -> None:
    with_context.enqueue("one")  # wrong
    with_context.enqueue(ctx=1, user_id=1)  # wrong
    print(sync.get_job("x").sttus)  # wrong


def sync_client_and_async_session(session: AsyncSession) -> None:
    within(sync, session)  # wrong


@eq.job(quue="emails")  # wrong
async def misspelt() -> None: ...


@eq.job(priority="high")  # wrong
async def mistyped() -> None: ...


@eq.periodic(cron=5)  # wrong
async def timed_by_a_number() -> None: ...


@eq.periodic(every=60, catch_up="some")  # wrong
async def caught_up_somehow() -> None: ...


@eq.periodic(every=60, quue="emails")  # wrong
async def misspelt_schedule() -> None: ...


@sync.periodic(every=60)
def timed(user_id: int = 1) -> None: ...


def schedules() -> None:
    timed.enqueue("one")  # wrong
    sync.scheduler.add(timed, every=60, overlap="sometimes")  # wrong
    sync.scheduler.add(timed, every=60, delay=5)  # wrong
    print(sync.scheduler.get("x").nxt)  # wrong
