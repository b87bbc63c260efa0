"""Orders in the admin; jobs are there already."""

from __future__ import annotations

from django.contrib import admin

from .models import Order


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("item", "email", "invoice", "mailed", "ordered_at")
