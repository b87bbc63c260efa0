"""Where things are."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("", views.shop, name="shop"),
    path("checkout/", views.checkout, name="checkout"),
    path("acheckout/", views.acheckout, name="acheckout"),
    path("admin/", admin.site.urls),
]
