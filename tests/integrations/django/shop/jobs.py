"""Found by autodiscovery; the name of a task is `shop.` and its function's."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from soniq import JobContext
from soniq.integrations.django import soniq, soniq_sync

from .models import Order


@soniq_sync.job(name="shop.invoice", max_retries=0)
def invoice(order_id: int) -> int:
    return Order.objects.filter(pk=order_id).update(invoiced=True)


@soniq.job(name="shop.ainvoice", max_retries=0)
async def ainvoice(order_id: int) -> int:
    return await Order.objects.filter(pk=order_id).aupdate(invoiced=True)


@soniq_sync.job(name="shop.backend_pid", max_retries=0)
def backend_pid() -> int:
    """Answer which of the server's processes serves Django in this thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@soniq_sync.job(name="shop.query_log", max_retries=0)
def query_log() -> list[int]:
    """Answer how many queries the log holds before and after one."""
    before = len(connection.queries)
    Order.objects.count()
    return [before, len(connection.queries)]


@soniq.job(name="shop.two_hops", max_retries=0)
async def two_hops(item: str) -> bool:
    """Open a transaction in one hop, write in the next, roll back in the third."""

    def begin() -> None:
        transaction.set_autocommit(False)

    def undo() -> None:
        transaction.rollback()
        transaction.set_autocommit(True)

    await sync_to_async(begin)()
    await Order.objects.acreate(item=item)
    await sync_to_async(undo)()
    return await Order.objects.filter(item=item).aexists()


@soniq_sync.job(name="shop.failing", max_retries=0)
def failing(ctx: JobContext) -> None:
    raise ValueError(f"attempt {ctx.attempt}")


@soniq_sync.job(name="shop.apart", max_retries=0, executor="process")
def apart(order_id: int) -> str:
    return Order.objects.get(pk=order_id).item


@soniq.job(name="shop.slow", max_retries=0, timeout=0.2)
async def slow() -> None:
    """Wait in the database for longer than the job may."""

    def wait() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1)")

    await sync_to_async(wait)()


@soniq.job(name="shop.abackend_pid", max_retries=0)
async def abackend_pid() -> int:
    return await sync_to_async(backend_pid)()


@soniq_sync.job(name="shop.leave_open", max_retries=0)
def leave_open() -> None:
    """Enter a transaction and never leave it."""
    transaction.atomic().__enter__()
    Order.objects.create(item="forgotten")
