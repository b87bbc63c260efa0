"""How a project tests its jobs: `python manage.py test`."""

from __future__ import annotations

from django.core import mail
from django.test import TestCase

from soniq.integrations.django import soniq_sync
from soniq.integrations.django.testing import drain

from .jobs import write_invoice
from .models import Order


class Checkout(TestCase):
    def test_an_order_is_invoiced_and_mailed(self) -> None:
        self.client.post("/checkout/", {"item": "lamp", "email": "ann@example.com"})
        (job,) = soniq_sync.list_jobs(task=write_invoice)
        order = Order.objects.get()
        self.assertEqual(job.args, {"order_id": order.pk})

        drain()

        order.refresh_from_db()
        self.assertTrue(order.mailed)
        self.assertEqual([each.subject for each in mail.outbox], [f"Invoice {order.invoice}"])

    def test_what_cannot_be_had_leaves_no_job(self) -> None:
        with self.assertRaises(ValueError):
            self.client.post("/checkout/", {"item": "unobtainable", "email": "ann@example.com"})
        self.assertEqual(soniq_sync.list_jobs(), [])
