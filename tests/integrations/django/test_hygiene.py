"""Django's connections around jobs: none is left, none is shared, and no log of queries grows."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from soniq.integrations.django import soniq_sync

from .shop import jobs
from .shop.models import Order

OPEN = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'shop' AND datname = current_database()"
)


@contextmanager
def entry(**changes: Any) -> Iterator[None]:
    """Change the entry of DATABASES; connections made from now on follow it."""
    chosen = connections["default"].settings_dict
    before = {key: chosen[key] for key in changes}
    chosen.update(changes)
    connections.close_all()
    try:
        yield
    finally:
        chosen.update(before)
        connections.close_all()


@pytest.fixture
def shop_connections(witness: Callable[..., Any]) -> Callable[[], int]:
    """Count Django's connections, in all threads; waits for those that are just ending."""
    connections.close_all()

    def count() -> int:
        seen = 0
        for _ in range(100):
            seen = int(witness(OPEN)[0][0])
            if seen == 0:
                break
            witness("SELECT pg_sleep(0.02)")
        return seen

    return count


def run(*calls: Any, concurrency: int = 1) -> list[Any]:
    """Enqueue, run a worker in this process until nothing is due, and answer the results."""
    ids = soniq_sync.enqueue_many(calls)
    assert soniq_sync.run_worker(concurrency=concurrency, run_once=True) == 0
    return [soniq_sync.get_job(job_id).result for job_id in ids]


@pytest.mark.parametrize("age", [0, None, 60])
def test_a_thread_keeps_its_connection_as_conn_max_age_says(
    age: int | None, shop_connections: Callable[[], int]
) -> None:
    with entry(CONN_MAX_AGE=age):
        pids = run(*[jobs.backend_pid.call() for _ in range(5)])
        assert len(set(pids)) == (5 if age == 0 else 1)
        assert shop_connections() == 0  # the threads ended with the worker


def test_a_connection_that_broke_is_replaced(witness: Callable[..., Any]) -> None:
    with entry(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True), soniq_sync.start_worker(concurrency=1):
        first = soniq_sync.wait(jobs.backend_pid.enqueue(), 30).result
        witness("SELECT pg_terminate_backend(%s)", first)
        again = soniq_sync.wait(jobs.backend_pid.enqueue(), 30)
        assert again.status == "done"
        assert again.result != first


def test_the_log_of_queries_is_one_jobs_only() -> None:
    with entry(CONN_MAX_AGE=None), override_settings(DEBUG=True):
        assert run(*[jobs.query_log.call() for _ in range(3)]) == [[0, 1]] * 3


def test_async_jobs_are_not_in_one_anothers_transactions(
    shop_connections: Callable[[], int],
) -> None:
    with entry(CONN_MAX_AGE=None):
        order = Order.objects.create(item="lamp")
        connections.close_all()
        calls = [jobs.two_hops.call(f"item {n}") for n in range(8)]
        calls += [jobs.ainvoice.call(order.pk) for _ in range(8)]
        results = run(*calls, concurrency=16)
        assert results == [False] * 8 + [1] * 8
        assert shop_connections() == 0
    order.refresh_from_db()
    assert order.invoiced  # no roll back of another job took it away


def test_async_jobs_have_a_connection_each() -> None:
    with entry(CONN_MAX_AGE=None):
        pids = run(*[jobs.abackend_pid.call() for _ in range(6)], concurrency=2)
    assert len(set(pids)) == 6


def test_a_job_that_ran_out_of_time_leaves_no_connection(
    shop_connections: Callable[[], int],
) -> None:
    with entry(CONN_MAX_AGE=None):
        job_id = soniq_sync.enqueue(jobs.slow)
        soniq_sync.run_worker(run_once=True)
        assert soniq_sync.get_job(job_id).attempts[0].outcome == "timed_out"
        assert shop_connections() == 0


def test_a_transaction_that_a_job_left_open_is_rolled_back() -> None:
    with entry(CONN_MAX_AGE=None):
        results = run(jobs.leave_open.call(), jobs.backend_pid.call(), jobs.query_log.call())
        assert results[1] is not None
        assert not Order.objects.exists()


def test_a_job_in_a_process_of_its_own_has_the_apps_too() -> None:
    order = Order.objects.create(item="lamp")
    assert run(jobs.apart.call(order.pk)) == ["lamp"]


@pytest.mark.parametrize(
    "number",
    [
        300,
        pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
@pytest.mark.parametrize("age", [0, None])
def test_many_jobs_leave_nothing_behind(
    number: int, age: int | None, shop_connections: Callable[[], int], witness: Callable[..., Any]
) -> None:
    order = Order.objects.create(item="lamp")
    calls = [(jobs.invoice if n % 2 else jobs.ainvoice).call(order.pk) for n in range(number)]
    connections.close_all()
    before = set(threading.enumerate())
    most, over = [0], threading.Event()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def watch() -> None:
        while not over.wait(0.05):
            most[0] = max(most[0], int(witness(OPEN)[0][0]))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with entry(CONN_MAX_AGE=age), override_settings(DEBUG=True):
            assert run(*calls, concurrency=4) == [1] * number
    finally:
        over.set()
        watching.join()
    # Four jobs at once; beside theirs there are some that the server is still closing.
    assert 0 < most[0] <= 50
    # Kibibytes; 40,000 logged queries would be more.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 60_000
    assert shop_connections() == 0
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith(("soniq-job", "ThreadPoolExecutor")):
            thread.join(10)
            assert not thread.is_alive()
