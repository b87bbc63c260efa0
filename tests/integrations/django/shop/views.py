from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, JsonResponse

from soniq.integrations.django import soniq_sync

from .jobs import invoice
from .models import Order


def place(item: str) -> dict[str, object]:
    """Store an order and its job: both or neither."""
    with transaction.atomic():
        order = Order.objects.create(item=item)
        job_id = soniq_sync.enqueue(invoice, order_id=order.pk)
        if item == "broken":
            raise RuntimeError("after the enqueue")
    return {"order": order.pk, "job": job_id}


def checkout(request: HttpRequest, item: str) -> JsonResponse:
    return JsonResponse(place(item))


async def acheckout(request: HttpRequest, item: str) -> JsonResponse:
    return JsonResponse(await sync_to_async(place, thread_sensitive=True)(item))
