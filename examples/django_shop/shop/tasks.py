"""A task of Django's own framework, where there is one: Django 6.0 and newer."""

from __future__ import annotations

import django
from django.db.models import Count

from .models import Order, Sales

if django.VERSION >= (6, 0):
    from django.tasks import task

    @task
    def count_sales() -> int:
        """Count what was sold; answer how many kinds of things."""
        counted = Order.objects.values("item").annotate(sold=Count("pk"))
        rows = [Sales(item=each["item"], sold=each["sold"]) for each in counted]
        Sales.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["item"], update_fields=["sold"]
        )
        return len(rows)

else:
    count_sales = None
