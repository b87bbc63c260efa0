"""Sign-ups that send a welcome email: a FastAPI application with Soniq.

    soniq setup                                       once
    uvicorn app:app                                   the web
    soniq worker --queues emails --concurrency 2      the worker, in this folder

Or all of it at once, with a mail server and ten sign-ups: `python run.py`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio.to_thread
import mail
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from soniq import Soniq
from soniq.job import JobContext

# Yours says: Soniq(database_url="postgresql://localhost/myapp"). With nothing said it is
# SONIQ_DATABASE_URL, and without that the embedded PostgreSQL, so that this runs anywhere.
eq = Soniq()


# -- the jobs. They may run twice (at least once is the promise), so they look before they send.


@eq.job(queue="emails", max_retries=3, retry_delay=[5, 30, 300])
async def send_welcome_email(user_id: int, ctx: JobContext):
    async with eq.backend.acquire() as conn:
        user = await conn.fetchrow("SELECT name, welcomed_at FROM users WHERE id = $1", user_id)
    if user is None or user[1] is not None:
        return  # gone; or welcomed by an attempt that died before it could say so
    message = mail.write("welcome", user_id, user[0], attempt=ctx.attempt)
    await anyio.to_thread.run_sync(mail.deliver, message)  # no connection is held meanwhile
    async with eq.backend.acquire() as conn:
        await conn.execute("UPDATE users SET welcomed_at = now() WHERE id = %s", [user_id])


@eq.job(queue="emails", max_retries=5, retry_delay=10, retry_backoff=True, retry_max_delay=3600)
async def send_email_with_backoff(user_id: int):
    async with eq.backend.acquire() as conn:
        user = await conn.fetchrow("SELECT name, reminded_at FROM users WHERE id = $1", user_id)
    if user is None or user[1] is not None:
        return
    await anyio.to_thread.run_sync(mail.deliver, mail.write("reminder", user_id, user[0]))
    async with eq.backend.acquire() as conn:
        await conn.execute("UPDATE users SET reminded_at = now() WHERE id = %s", [user_id])


# -- the web


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await eq.ensure_initialized()
    async with eq.backend.acquire() as conn:
        await conn.execute(mail.USERS_TABLE)
    yield
    await eq.close()


app = FastAPI(title="Email jobs", lifespan=lifespan)


class SignUp(BaseModel):
    name: str


class User(NamedTuple):
    id: int
    name: str


@app.post("/users", status_code=201)
async def sign_up(form: SignUp) -> dict[str, int | str]:
    """Save the user and enqueue the mail in one transaction: both are there, or neither."""
    name = form.name
    await eq.ensure_initialized()
    async with eq.backend.acquire() as conn:  # noqa: SIM117 - two blocks, two ideas
        async with conn.transaction():
            user_id = await conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name)
            job_id = await eq.enqueue(send_welcome_email, connection=conn, user_id=user_id)
    return {"user_id": user_id, "job_id": job_id}


@app.post("/users/in-two-steps", status_code=201)
async def sign_up_in_two_steps(form: SignUp) -> dict[str, int | str]:
    """Save the user, then enqueue: shorter, but who dies in between leaves a user without mail."""
    user = await save_user(form.name)
    job_id = await eq.enqueue(send_welcome_email, user_id=user.id)
    return {"user_id": user.id, "job_id": job_id}


@app.post("/users/{user_id}/reminder", status_code=202)
async def remind(user_id: int) -> dict[str, int | str]:
    """Enqueue the mail whose retries wait 10, 20, 40 ... seconds, at most an hour."""
    user = await find_user(user_id)
    job_id = await eq.enqueue(send_email_with_backoff, user_id=user.id)
    return {"user_id": user.id, "job_id": job_id}


async def save_user(name: str) -> User:
    async with eq.backend.acquire() as conn:
        user_id = await conn.fetchval("INSERT INTO users (name) VALUES ($1) RETURNING id", name)
    return User(user_id, name)


async def find_user(user_id: int) -> User:
    async with eq.backend.acquire() as conn:
        row = await conn.fetchrow("SELECT id, name FROM users WHERE id = $1", user_id)
    if row is None:
        raise HTTPException(404, f"There is no user {user_id}.")
    return User(*row)
