"""Soniq as a Django app: put `soniq.integrations.django` in INSTALLED_APPS.

`soniq` and `soniq_sync` are the clients of the project, made of `settings.SONIQ` at first use, and
`SoniqBackend` is the backend for Django's Tasks framework (Django 6.0 and newer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tasks_backend import SoniqBackend
    from .using import DjangoSoniq, DjangoSoniqSync

    soniq: DjangoSoniq
    soniq_sync: DjangoSoniqSync

__all__ = ["SoniqBackend", "soniq", "soniq_sync"]


def __getattr__(name: str) -> Any:
    # Late: Django imports this package before its own settings and apps are ready.
    if name == "soniq":
        from .clients import client

        return client()
    if name == "soniq_sync":
        from .clients import client

        return client().sync
    if name == "SoniqBackend":
        from .tasks_backend import SoniqBackend

        return SoniqBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
