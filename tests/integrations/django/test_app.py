"""The installed app: its clients, and what it joins."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from django.test import AsyncClient, Client, override_settings

from soniq import TransactionAborted, UsageError
from soniq.integrations.django import config, soniq, soniq_sync
from soniq.integrations.django.address import conninfo

from .shop.jobs import invoice
from .shop.models import Order

ROOT = Path(__file__).parents[3]


class Undo(Exception):
    pass


@contextmanager
def undone() -> Iterator[None]:
    """Open an `atomic()` block and roll it back by an error."""
    with suppress(Undo), transaction.atomic():
        yield
        raise Undo


def test_a_commit_leaves_one_job_and_its_order(stored: Callable[[], int]) -> None:
    with transaction.atomic():
        order = Order.objects.create(item="lamp")
        job_id = soniq_sync.enqueue(invoice, order_id=order.pk)
        assert stored() == 0  # nobody else sees it yet
        assert soniq_sync.get_job(job_id).args == {"order_id": order.pk}
    assert stored() == 1


def test_the_first_statement_of_a_block_joins_it(stored: Callable[[], int]) -> None:
    with undone():
        soniq_sync.enqueue(invoice, order_id=1)
    assert stored() == 0


@pytest.mark.parametrize("inner", [True, False])
def test_a_savepoint_takes_its_jobs_with_it(stored: Callable[[], int], inner: bool) -> None:
    with transaction.atomic():
        if not inner:
            invoice.enqueue(1)
        with undone():
            if inner:
                invoice.enqueue(1)
    assert stored() == (0 if inner else 1)


def test_many_jobs_and_streams_join_too(stored: Callable[[], int]) -> None:
    with undone():
        soniq_sync.enqueue_many(invoice, [{"order_id": n} for n in range(1500)])
        soniq_sync.enqueue_stream(invoice, ({"order_id": n} for n in range(1500)))
        assert len(soniq_sync.list_jobs(limit=1000)) == 1000
    assert stored() == 0


def test_outside_of_a_block_the_job_is_stored_at_once(stored: Callable[[], int]) -> None:
    invoice.enqueue(1)
    assert stored() == 1
    with transaction.atomic():
        pass
    assert stored() == 1


def test_a_block_of_another_thread_is_not_joined(stored: Callable[[], int]) -> None:
    with undone():
        thread = threading.Thread(target=invoice.enqueue, args=(1,))
        thread.start()
        thread.join()
    assert stored() == 1


def test_a_block_of_another_database_is_not_joined(stored: Callable[[], int]) -> None:
    entries = connections.settings
    entries["other"] = dict(connections["default"].settings_dict)
    try:
        with transaction.atomic(using="other"):
            invoice.enqueue(1)
            assert stored() == 1
    finally:
        connections["other"].close()
        del connections["other"], entries["other"]


def test_a_block_that_failed_is_told_and_rolls_back(stored: Callable[[], int]) -> None:
    with transaction.atomic():
        with suppress(Undo), transaction.atomic(savepoint=False):
            raise Undo
        with pytest.raises(TransactionAborted, match="atomic"):
            invoice.enqueue(1)
    assert stored() == 0


async def _hop(function: Callable[[], Any]) -> Any:
    return await sync_to_async(function, thread_sensitive=True)()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_enqueue_in_the_next_hop_joins_what_the_last_opened(
    anyio_backend: str, stored: Callable[[], int]
) -> None:
    async with ThreadSensitiveContext():
        block = transaction.atomic()
        await _hop(block.__enter__)
        await _hop(lambda: invoice.enqueue(1))
        assert stored() == 0
        await _hop(lambda: block.__exit__(None, None, None))
        assert stored() == 1
        await _hop(connections.close_all)


def test_joining_can_be_switched_off(
    stored: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soniq_sync._app, "ambient", None)  # as JOIN_ATOMIC = False leaves it
    with undone():
        invoice.enqueue(1)
    assert stored() == 1


def test_a_connection_can_be_named(stored: Callable[[], int]) -> None:
    with undone():
        soniq_sync.enqueue(invoice, connection=connection, order_id=1)
        soniq_sync.within(connections["default"]).enqueue(invoice, order_id=2)
    assert stored() == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("path", ["/checkout", "/acheckout"])
async def test_a_view_stores_both_or_neither_under_asgi(
    anyio_backend: str, path: str, stored: Callable[[], int]
) -> None:
    assert (await AsyncClient().get(f"{path}/lamp")).status_code == 200
    with pytest.raises(RuntimeError):
        await AsyncClient().get(f"{path}/broken")
    assert stored() == 1
    await sync_to_async(connections.close_all)()


@pytest.mark.parametrize("path", ["/checkout", "/acheckout"])
def test_a_view_stores_both_or_neither(path: str, stored: Callable[[], int]) -> None:
    answer = Client().get(f"{path}/lamp").json()
    assert soniq_sync.get_job(answer["job"]).args == {"order_id": answer["order"]}
    with pytest.raises(RuntimeError):
        Client().get(f"{path}/broken")
    assert (stored(), Order.objects.count()) == (1, 1)


def test_both_clients_are_one_application() -> None:
    assert soniq.sync is soniq_sync
    assert soniq.registry.find("shop.invoice") is not None  # found by autodiscovery
    assert soniq.settings.concurrency == 4


@pytest.mark.anyio
async def test_the_async_client_uses_the_same_database(stored: Callable[[], int]) -> None:
    try:
        job_id = await soniq.enqueue("shop.invoice", order_id=7)
        assert (await soniq.get_job(job_id)).task == "shop.invoice"
    finally:
        await soniq.close()
    assert stored() == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"CONCURENCY": 3}, "Did you mean 'CONCURRENCY'"),
        ({"CONCURRENCY": "many"}, "SONIQ['CONCURRENCY']"),
        ({"DATABASE": "jobs"}, "one of DATABASES: default"),
        ({"DATABASE": "default", "DATABASE_URL": "dbname=x"}, "not both"),
        ({"JOIN_ATOMIC": "yes"}, "True or False"),
        ({"TASK_MODULES": "shop.jobs"}, "a list of module names"),
        ({"RETRY_POLICY": "no.such.thing"}, "SONIQ['RETRY_POLICY']"),
        ([], "must be a dict"),
    ],
)
def test_bad_settings_are_named(given: Any, said: str) -> None:
    with override_settings(SONIQ=given), pytest.raises(ImproperlyConfigured) as caught:
        config.read()
    assert said in str(caught.value)


def test_an_entry_of_databases_becomes_an_address() -> None:
    entry = {
        "NAME": "shop",
        "USER": "o'neil",
        "PASSWORD": "p w'd",
        "HOST": "",
        "PORT": 5433,
        "OPTIONS": {
            "sslmode": "require",
            "application_name": "shop",
            "pool": True,
            "isolation_level": 3,
            "server_side_binding": True,
            "assume_role": "shop owner",
        },
    }
    from psycopg.conninfo import conninfo_to_dict

    assert conninfo_to_dict(conninfo(entry)) == {
        "dbname": "shop",
        "user": "o'neil",
        "password": "p w'd",
        "port": "5433",
        "sslmode": "require",
        "options": "-c role=shop\\ owner",
    }


def manage(*arguments: str, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_manage_py_has_the_whole_command_line() -> None:
    invoice.enqueue(1)
    assert "shop.invoice" in manage(
        "soniq", "jobs", "list", "--settings", "integrations.django.settings"
    )
    assert "dead-letter" in manage("soniq", "--help")
    assert "dead-letter" in manage("help", "soniq")
    assert "There is no command" in manage("soniq", "wroker", code=2)


def test_manage_py_soniq_worker_runs_the_jobs() -> None:
    order = Order.objects.create(item="lamp")
    job_id = invoice.enqueue(order.pk)
    manage("soniq", "worker", "--run-once")
    assert soniq_sync.get_job(job_id).result == 1
    order.refresh_from_db()
    assert order.invoiced


def test_the_command_soniq_finds_the_project() -> None:
    invoice.enqueue(1)
    done = subprocess.run(
        [sys.executable, "-m", "soniq", "worker", "--run-once"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "SONIQ_APP": "soniq.integrations.django:soniq",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [job.status for job in soniq_sync.list_jobs()] == ["done"]


def test_call_command_goes_on_when_it_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    from django.core.management import call_command

    call_command("soniq", "migrate-status")
    assert "0001_pre_tables" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call_command("soniq", "jobs", "show", "no-id")


def test_what_is_bound_to_a_block_runs_no_worker() -> None:
    with pytest.raises(UsageError):
        soniq_sync.within(connection).run_worker()


def awaited_here(answer: Any) -> None:
    """Await it in a loop that runs while this thread waits, and does its Django calls."""

    async def wait() -> None:
        await answer

    async_to_sync(wait)()


@pytest.mark.parametrize("client", ["soniq_sync", "soniq"])
def test_using_names_the_connection_of_whatever_is_stored(
    client: str, stored: Callable[[], int]
) -> None:
    eq = {"soniq": soniq, "soniq_sync": soniq_sync}[client]
    with undone():
        for stores in (
            lambda: eq.enqueue(invoice, using="default", order_id=1),
            lambda: eq.schedule(invoice, 5, using="default", order_id=1),
            lambda: eq.enqueue_many(invoice, [{"order_id": 1}], using="default"),
            lambda: eq.enqueue_stream(invoice, [{"order_id": 1}], using="default"),
            lambda: eq.within(using="default").enqueue(invoice, order_id=1),
        ):
            answer: Any = stores()
            if client == "soniq":
                awaited_here(answer)
    assert stored() == 0


def test_using_and_connection_exclude_each_other(stored: Callable[[], int]) -> None:
    with pytest.raises(UsageError, match="not both"):
        soniq_sync.enqueue(invoice, using="default", connection=connection, order_id=1)
    with pytest.raises(UsageError, match="alias of DATABASES"):
        soniq_sync.enqueue(invoice, using=connection, order_id=1)  # type: ignore[arg-type]
    assert stored() == 0
