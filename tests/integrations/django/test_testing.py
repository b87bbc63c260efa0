"""What users' own tests do: enqueue, look and run within `TestCase`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import django
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core import mail
from django.db import IntegrityError, connection, connections, transaction
from django.test import TestCase, TransactionTestCase

from soniq import DatabaseMissing, JobContext, JobStatus, UsageError
from soniq.integrations.django import soniq, soniq_sync
from soniq.integrations.django.address import conninfo
from soniq.integrations.django.testing import drain, forget_jobs

from .shop import jobs
from .shop.models import Order
from .shop.views import place


@soniq_sync.job(name="test.twice", max_retries=3, retry_delay=0)
def twice(ctx: JobContext, n: int) -> int:
    if ctx.attempt == 1:
        raise ValueError("the first time")
    return n


@soniq_sync.job(name="test.chain")
def chain(n: int) -> None:
    if n:
        chain.enqueue(n - 1)


@soniq_sync.job(name="test.for_ever")
def for_ever() -> None:
    for_ever.enqueue()


@soniq_sync.job(name="test.breaks", max_retries=0)
def breaks(pk: int) -> None:
    Order.objects.create(pk=pk, item="the same again")


@soniq_sync.job(name="test.failing", max_retries=0)
def failing(which: str) -> None:
    assert connection.in_atomic_block  # it is in the transaction of the test
    raise ValueError(which)


@soniq.job(name="test.afailing", max_retries=0)
async def afailing(which: str) -> None:
    raise ValueError(which)


@soniq_sync.job(name="test.own_transaction", max_retries=0)
def own_transaction(ctx: JobContext) -> None:
    with ctx.transaction():
        pass


class InATransaction(TestCase):
    def test_a_view_is_tested_with_its_job(self) -> None:
        answer = self.client.get("/checkout/lamp").json()
        (job,) = soniq_sync.list_jobs(task=jobs.invoice)
        assert (job.id, job.status) == (answer["job"], JobStatus.QUEUED)
        (ran,) = drain()
        assert (ran.id, ran.status, ran.result) == (job.id, JobStatus.DONE, 1)
        assert Order.objects.get().invoiced

    def test_async_jobs_are_in_the_transaction_too(self) -> None:
        order = Order.objects.create(item="lamp")
        soniq_sync.enqueue(jobs.ainvoice, order_id=order.pk)
        assert [job.result for job in drain()] == [1]

    def test_a_rolled_back_block_leaves_nothing_to_run(self) -> None:
        with pytest.raises(RuntimeError):
            place("broken")
        assert drain() == []

    def test_on_commit_callbacks_enqueue(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.on_commit(lambda: jobs.invoice.enqueue(1) and None)
            assert drain() == []
        assert len(callbacks) == 1
        assert [job.task for job in drain()] == ["shop.invoice"]

    def test_an_error_of_a_handler_is_raised(self) -> None:
        job_id = jobs.failing.enqueue()
        with pytest.raises(ValueError, match="attempt 1"):
            drain()
        assert soniq_sync.get_job(job_id).status == JobStatus.DEAD_LETTER

    def test_retries_happen_as_in_a_worker(self) -> None:
        job_id = twice.enqueue(5)
        assert [job.result for job in drain(raise_errors=False)] == [5]
        assert soniq_sync.get_job(job_id).attempt == 2

    def test_jobs_of_jobs_run_and_those_that_are_due_later_wait(self) -> None:
        chain.enqueue(3)
        soniq_sync.enqueue(chain, delay=600, n=0)
        assert len(drain()) == 4
        assert [job.status for job in soniq_sync.list_jobs("scheduled")] == ["scheduled"]

    def test_only_the_queues_that_are_named_are_drained(self) -> None:
        soniq_sync.enqueue(chain, queue="mail", n=0)
        soniq_sync.enqueue(chain, queue="reports", n=0)
        assert [job.queue for job in drain(["mail"])] == ["mail"]

    def test_jobs_without_end_are_stopped(self) -> None:
        for_ever.enqueue()
        with pytest.raises(UsageError, match="More than 20"):
            drain(most=20)

    def test_a_handler_that_breaks_the_transaction_spoils_no_test(self) -> None:
        order = Order.objects.create(item="lamp")
        breaks.enqueue(order.pk)
        with pytest.raises(IntegrityError):
            drain()
        assert Order.objects.count() == 1

    def test_async_hooks_are_called_around_jobs_of_both_kinds(self) -> None:
        """Those around `def` jobs were not, nor any `on_error` of an `async def` job."""
        told: list[str] = []

        async def around(ctx: JobContext, call_next: Callable[[], Any]) -> Any:
            told.append("around")
            return await call_next()

        async def failed(ctx: JobContext, error: BaseException) -> None:
            told.append(str(error))

        hooks = soniq_sync.hooks
        for functions, function in ((hooks.middleware, around), (hooks.on_error, failed)):
            functions.append(function)
            self.addCleanup(functions.remove, function)
        chain.enqueue(1)
        failing.enqueue("sync")
        soniq_sync.enqueue(afailing, which="async")
        ran = drain(raise_errors=False)
        assert [job.status for job in ran].count(JobStatus.DONE) == 2
        assert told == ["around", "around", "sync", "around", "async", "around"]

    def test_a_transaction_of_the_handlers_own_is_refused_clearly(self) -> None:
        own_transaction.enqueue()
        with pytest.raises(UsageError, match="start_worker"):
            drain()

    if django.VERSION >= (6, 0):

        def test_tasks_of_djangos_run_too(self) -> None:
            from .shop import tasks

            results = [tasks.add.enqueue(1), tasks.aadd.enqueue(2), tasks.count_orders.enqueue()]
            drain()
            for result in results:
                result.refresh()
            assert [result.return_value for result in results] == [2, 3, 0]


class InAnAsyncTest(TestCase):
    """The async client's jobs were once committed, and met by the tests that came after."""

    async def test_the_async_client_is_in_the_transaction_too(self) -> None:
        order = await Order.objects.acreate(item="lamp")
        await soniq.enqueue(jobs.invoice, order_id=order.pk)
        await soniq.enqueue_many(jobs.ainvoice, [(order.pk,)])
        await soniq.enqueue_stream(chain, ((0,) for _ in range(2)))
        assert len(await soniq.list_jobs()) == 4
        with psycopg.connect(conninfo(connection.settings_dict)) as outside:
            assert outside.execute("SELECT count(*) FROM soniq.jobs").fetchone() == (0,)
        assert [job.status for job in await sync_to_async(drain)()] == [JobStatus.DONE] * 4


class WithCommits(TransactionTestCase):
    def test_a_worker_runs_what_is_committed(self) -> None:
        order = Order.objects.create(item="lamp")
        job_id = jobs.invoice.enqueue(order.pk)
        with soniq_sync.start_worker():
            assert soniq_sync.wait(job_id, 30).result == 1

    def test_jobs_are_forgotten(self) -> None:
        jobs.failing.enqueue()
        jobs.invoice.enqueue(1)
        drain(raise_errors=False)
        soniq_sync.enqueue(chain, delay=600, n=0)
        assert len(soniq_sync.list_jobs()) == 3
        forget_jobs()
        assert soniq_sync.list_jobs() == []
        assert not connection.in_atomic_block

    def test_a_key_is_forgotten_with_its_job(self) -> None:
        first = soniq_sync.enqueue(chain, dedup_key="once", unique_for=600, n=0)
        forget_jobs()
        again = soniq_sync.enqueue(chain, dedup_key="once", unique_for=600, n=0)
        assert again != first
        assert [job.id for job in soniq_sync.list_jobs()] == [again]
        forget_jobs()


def test_no_pool_of_ours_is_in_the_way_when_django_drops_its_database(
    witness: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`manage.py test` once ended with "database is being accessed by other users"."""
    # What tells that tests run; TestCase leaves it behind.
    monkeypatch.delattr(mail, "outbox", raising=False)
    soniq_sync.enqueue(chain, n=0)
    asyncio.run(soniq.enqueue(chain, n=0))
    ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'soniq' AND datname = %s"
    database = connections["default"].settings_dict["NAME"]
    assert len(witness(ours, database)) == 2
    with connections["default"]._nodb_cursor():  # as before CREATE and DROP DATABASE
        pass
    for _ in range(1000):
        if not witness(ours, database):
            break
        witness("SELECT pg_sleep(0.01)")
    assert witness(ours, database) == []
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "made_by_nobody")
    with pytest.raises(DatabaseMissing):  # it looked where its database is now
        soniq_sync.enqueue(chain, n=0)
    soniq_sync.__dict__.pop("_opened")
