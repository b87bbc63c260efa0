"""What happens after an order; the worker finds this module because of its name."""

from __future__ import annotations

from django.core.mail import send_mail
from django.db import transaction

from soniq import JobContext
from soniq.integrations.django import soniq_sync

from .models import Order


@soniq_sync.job(queue="invoices")
def write_invoice(order_id: int) -> str:
    """Give the order its invoice, and have it mailed: both or neither."""
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        order.invoice = f"2026-{order.pk:06}"
        order.save()
        send_invoice.enqueue(order_id=order.pk)
    return order.invoice


@soniq_sync.job(queue="emails", max_retries=5, retry_delay=10, retry_backoff=True)
def send_invoice(ctx: JobContext, order_id: int) -> None:
    """Mail the invoice. A job runs at least once, so it may have been sent before."""
    order = Order.objects.get(pk=order_id)
    if order.mailed:
        return
    send_mail(f"Invoice {order.invoice}", f"For your {order.item}.", None, [order.email])
    Order.objects.filter(pk=order_id).update(mailed=True)
