"""The recipe of the interface, as it stands there, against a real database."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from soniq import Soniq, SoniqSync
from soniq.job import JobContext, JobStatus

pytestmark = pytest.mark.anyio


@pytest.fixture
def users(witness: Callable[..., Any]) -> None:
    witness("CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL)")


@pytest.mark.parametrize("colour", ["asyncio", "trio"], indirect=True)
async def test_the_async_recipe(database_url: str, users: None, stored: Callable[[], int]) -> None:
    sent: list[Any] = []
    eq = Soniq(database_url=database_url)

    @eq.job(queue="emails", max_retries=3, retry_delay=[5, 30, 300])
    async def send_welcome_email(user_id: int, ctx: JobContext):
        sent.append((user_id, ctx.attempt, ctx.job_id))

    @eq.job(queue="emails", max_retries=5, retry_delay=10, retry_backoff=True, retry_max_delay=3600)
    async def send_email_with_backoff(user_id: int): ...

    user = SimpleNamespace(id=17)
    await eq.enqueue(send_welcome_email, user_id=user.id)  # from a FastAPI route

    name = "Ada"
    await eq.ensure_initialized()
    async with eq.backend.acquire() as conn:
        async with conn.transaction():
            user_id = await conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name)
            job_id = await eq.enqueue(send_welcome_email, connection=conn, user_id=user_id)
            assert stored() == 1

    job = await eq.get_job(job_id)
    assert (job.queue, job.max_attempts, job.args) == ("emails", 4, {"user_id": 1})
    assert (await eq.get_job(await send_email_with_backoff.enqueue(1))).max_attempts == 6
    async with eq.start_worker(queues=["emails"], concurrency=2):
        assert (await eq.wait(job_id, 30)).status is JobStatus.DONE
    assert (1, 1, job_id) in sent
    await eq.close()


@pytest.mark.parametrize("colour", ["sync"], indirect=True)
async def test_the_sync_recipe(database_url: str, users: None, stored: Callable[[], int]) -> None:
    eq = SoniqSync(database_url=database_url)

    @eq.job(queue="emails")
    def send_welcome_email(user_id: int, ctx: JobContext) -> int:
        return ctx.attempt

    name = "Ada"
    with eq.backend.acquire() as conn, conn.transaction():
        user_id = conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name)
        job_id = eq.enqueue(send_welcome_email, connection=conn, user_id=user_id)
        assert stored() == 0
    assert stored() == 1
    with eq.start_worker():
        assert (await anyio.to_thread.run_sync(eq.wait, job_id, 30)).result == 1
    eq.close()


def test_the_context_is_found_when_annotations_are_texts() -> None:
    """This module says `from __future__ import annotations`, as the recipe's users may."""
    eq = SoniqSync("postgresql://")

    @eq.job
    def work(n: int, ctx: JobContext) -> None: ...

    assert inspect.get_annotations(work.function)["ctx"] == "JobContext"
    assert work.arguments.context_name == "ctx"
    assert work.arguments.names == ("n",)
