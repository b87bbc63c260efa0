"""What may be around the measured jobs: middleware that does nothing, and what Django wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from soniq import JobContext, Soniq


def _sync(eq: Soniq) -> None:
    @eq.middleware
    def around(ctx: JobContext, call_next: Callable[[], Any]) -> Any:
        return call_next()


def _async(eq: Soniq) -> None:
    @eq.middleware
    async def around(ctx: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        return await call_next()


def _django(eq: Soniq) -> None:
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}})
    django.setup()
    from soniq.integrations.django import hygiene

    hygiene.install(eq)


AROUND: dict[str, Callable[[Soniq], None]] = {"sync": _sync, "async": _async, "django": _django}
