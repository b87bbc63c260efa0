"""Making a process a part of the Django project."""

from __future__ import annotations

import django
from django.apps import apps


def start() -> None:
    """Load the project's apps, unless that was done or is being done."""
    if not (apps.ready or getattr(apps, "loading", False)):
        django.setup()
