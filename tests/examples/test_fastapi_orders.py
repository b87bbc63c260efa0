"""The FastAPI example: a real uvicorn process, which is told to stop under load."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

pytest.importorskip("sqlalchemy")

from .conftest import ROOT, ask, connected, run, serving, until

pytestmark = pytest.mark.timeout(180)
FOLDER = ROOT / "examples" / "fastapi_orders"
Serve = Callable[..., AbstractContextManager[tuple[Popen[bytes], str]]]


@pytest.fixture
def serve(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("SONIQ_DATABASE_URL", database_url)

    def serve(**environment: str) -> Any:
        command = ("uvicorn", "app:app", "--port", "0")
        return serving(*command, folder=FOLDER, log=tmp_path / "uvicorn.log", **environment)

    return serve


def order(client: httpx.Client, cents: int) -> int:
    answer = client.post("/orders", json={"customer": "Ada", "cents": cents})
    assert answer.status_code == 201
    return int(answer.json()["id"])


def test_an_order_gets_its_invoice(serve: Serve) -> None:
    with serve(RUN_WORKER="1") as (_, address), httpx.Client(base_url=address) as client:
        order_id = order(client, 1250)
        until(lambda: client.get(f"/orders/{order_id}").json()["invoice"])
        assert client.get(f"/orders/{order_id}").json() == {
            "customer": "Ada",
            "cents": 1250,
            "invoice": f"INV-{order_id:06}",
        }
        assert client.get("/orders/999").status_code == 404
        assert client.post("/orders", json={"customer": "Bob", "cents": 0}).status_code == 422


def test_a_stop_under_load_loses_nothing_that_was_acknowledged(
    serve: Serve, database_url: str
) -> None:
    acknowledged: list[int] = []

    def customer(address: str) -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            try:
                while True:
                    acknowledged.append(order(client, 100))
            except httpx.HTTPError:
                return  # the server has gone

    with serve(RUN_WORKER="1") as (process, address):
        customers = [threading.Thread(target=customer, args=(address,)) for _ in range(4)]
        for each in customers:
            each.start()
        until(lambda: len(acknowledged) >= 100)
        process.send_signal(signal.SIGTERM)
        # uvicorn ends by the signal once it has shut down in order.
        assert process.wait(60) in {0, -signal.SIGTERM}
        for each in customers:
            each.join()
    counts = "SELECT count(*) FROM soniq.jobs WHERE state = "
    assert ask(database_url, f"{counts} 'processing'") == 0
    assert ask(database_url, "SELECT count(*) FROM soniq.workers") == 0
    run("-m", "soniq", "worker", "--run-once", folder=FOLDER)
    assert ask(database_url, f"{counts} 'queued'") == 0
    with connected(database_url) as connection:
        rows = connection.execute("SELECT id FROM orders WHERE invoice IS NOT NULL").fetchall()
        attempts = connection.execute("SELECT DISTINCT attempt FROM soniq.history").fetchall()
    assert {order_id for (order_id,) in rows} >= set(acknowledged)
    assert attempts == [(1,)]
