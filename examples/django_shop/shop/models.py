"""Orders."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    email = models.EmailField()
    invoice = models.CharField(max_length=20, blank=True)
    mailed = models.BooleanField(default=False)
    ordered_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.item} for {self.email}"


class Sales(models.Model):
    """How often each item was sold; counted by a task."""

    item = models.CharField(max_length=100, primary_key=True)
    sold = models.IntegerField()
