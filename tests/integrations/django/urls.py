from django.contrib import admin
from django.urls import path

from .shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("checkout/<str:item>", views.checkout),
    path("acheckout/<str:item>", views.acheckout),
]
