"""The page and the checkout, once for WSGI and once for ASGI."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from .jobs import write_invoice
from .models import Order, Sales
from .tasks import count_sales


def shop(request: HttpRequest) -> HttpResponse:
    context = {"orders": Order.objects.order_by("-pk")[:20], "sales": Sales.objects.all()}
    return render(request, "shop/shop.html", context)


def place_order(item: str, email: str) -> Order:
    """Store the order and what shall happen next: all of it or nothing."""
    with transaction.atomic():
        order = Order.objects.create(item=item, email=email)
        write_invoice.enqueue(order_id=order.pk)
        if count_sales is not None:
            count_sales.enqueue()
        if item == "unobtainable":
            raise ValueError("this cannot be had, and the jobs are gone with the order")
    return order


@require_POST
def checkout(request: HttpRequest) -> HttpResponse:
    place_order(request.POST["item"], request.POST["email"])
    return redirect("shop")


@require_POST
async def acheckout(request: HttpRequest) -> HttpResponse:
    # One hop for the whole transaction: Django has no async atomic().
    await sync_to_async(place_order)(request.POST["item"], request.POST["email"])
    return redirect("shop")
