"""The lifespan and the dependencies, on real FastAPI and Starlette apps."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from soniq import Soniq, SoniqSync
from soniq.errors import SchemaMissing, SettingsError
from soniq.integrations.fastapi import BoundClient, Client, Transaction, lifespan

with warnings.catch_warnings():  # it would rather have httpx2 where there is httpx
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

Ask = Callable[[str], Any]


@pytest.fixture
def eq(database_url: str) -> Soniq:
    return Soniq(database_url)


@pytest.fixture
def ask(database_url: str) -> Ask:
    def ask(statement: str) -> Any:
        with psycopg.connect(database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else None

    ask("CREATE TABLE orders (id serial, name text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    return ask


@pytest.fixture
def shop(eq: Soniq) -> FastAPI:
    app = FastAPI(lifespan=lifespan(eq))

    @eq.job
    async def send_invoice(order_id: int) -> None: ...

    @app.post("/orders/{name}")
    async def order(name: str, conn: Transaction, jobs: BoundClient) -> str:
        order_id = await conn.fetchval("INSERT INTO orders (name) VALUES (%s) RETURNING id", name)
        if name == "broken":
            raise RuntimeError(name)
        job_id = await jobs.enqueue(send_invoice, order_id=order_id)
        if name == "refused":
            raise HTTPException(409)
        return job_id

    @app.get("/orders/{job_id}/state")
    async def state(job_id: str, jobs: Client) -> str:
        return (await jobs.get_job(job_id)).status

    return app


def test_the_order_and_its_job_are_there_when_the_answer_is(shop: FastAPI, ask: Ask) -> None:
    with TestClient(shop) as client:
        answer = client.post("/orders/one")
        assert answer.status_code == 200
        assert ask("SELECT name FROM orders") == [("one",)]
        assert ask("SELECT CAST(id AS text) FROM soniq.jobs") == [(answer.json(),)]
        assert client.get(f"/orders/{answer.json()}/state").json() == "queued"


@pytest.mark.parametrize(("name", "code"), [("broken", 500), ("refused", 409)])
def test_neither_is_there_if_the_handler_raised(
    shop: FastAPI, ask: Ask, name: str, code: int
) -> None:
    with TestClient(shop, raise_server_exceptions=False) as client:
        assert client.post(f"/orders/{name}").status_code == code
    assert ask("SELECT name FROM orders") == []
    assert ask("SELECT id FROM soniq.jobs") == []


def test_a_commit_that_fails_is_no_success(shop: FastAPI, ask: Ask) -> None:
    """A dependency ends after the answer was sent, if it does not say otherwise."""
    with TestClient(shop, raise_server_exceptions=False) as client:
        assert client.post("/orders/twice").status_code == 200
        assert client.post("/orders/twice").status_code == 500
    assert ask("SELECT name FROM orders") == [("twice",)]
    assert ask("SELECT count(*) FROM soniq.jobs") == [(1,)]


def test_a_worker_beside_the_requests_drains_before_what_its_jobs_use_is_closed(
    eq: Soniq, database_url: str
) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("opened")
        yield {"greeting": "hello"}
        events.append("closed")

    app = FastAPI(lifespan=lifespan(eq, own, run_worker=True, concurrency=2, queues=["orders"]))

    @eq.job(queue="orders")
    async def slow() -> None:
        import anyio

        events.append("began")
        await anyio.sleep(0.5)  # the work of a job
        events.append("ended")

    @app.post("/")
    async def enqueue(request: Request, jobs: Client) -> list[str]:
        return [request.state.greeting, await jobs.enqueue(slow)]

    with TestClient(app) as client, SoniqSync(database_url) as sync:
        greeting, job_id = client.post("/").json()
        while sync.get_job(job_id).status == "queued":
            time.sleep(0.01)
    with SoniqSync(database_url) as sync:
        assert sync.get_job(job_id).status == "done"
    assert greeting == "hello"
    assert events == ["opened", "began", "ended", "closed"]


def test_starlette_takes_the_lifespan_too(eq: Soniq) -> None:
    @eq.job
    async def note() -> None: ...

    async def enqueue(request: Any) -> PlainTextResponse:
        return PlainTextResponse(await request.app.state.soniq.enqueue(note))

    app = Starlette(routes=[Route("/", enqueue, methods=["POST"])], lifespan=lifespan(eq))
    with TestClient(app) as client, eq.sync as sync:
        assert sync.get_job(client.post("/").text).task == note.name


def test_an_app_that_is_mounted_has_the_client_too(shop: FastAPI, ask: Ask) -> None:
    """It has no lifespan, and a state of its own: it was told that the app has no client."""
    outer = FastAPI(lifespan=shop.router.lifespan_context)
    outer.mount("/shop", shop)
    with TestClient(outer) as client:
        job_id = client.post("/shop/orders/one").json()
        assert client.get(f"/shop/orders/{job_id}/state").json() == "queued"


def test_an_app_without_the_lifespan_is_told_so(shop: FastAPI, ask: Ask) -> None:
    with pytest.raises(SettingsError, match="lifespan"):
        TestClient(shop).post("/orders/one")


def test_a_database_that_was_not_set_up_ends_the_start(
    empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    app = FastAPI(lifespan=lifespan(Soniq(empty_database)))
    with pytest.raises(SchemaMissing, match="soniq setup"), TestClient(app):
        pass
