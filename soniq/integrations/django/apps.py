"""The installed app: finds the tasks of the others, and checks the project."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig
from django.core import checks as checks_
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

from . import checks, config


class SoniqConfig(AppConfig):
    """`soniq.integrations.django` in INSTALLED_APPS."""

    name = "soniq.integrations.django"
    label = "soniq"
    verbose_name = "Background jobs"

    def ready(self) -> None:
        """Import every app's `tasks` and `jobs`, so that a worker knows what it may run."""
        checks_.register(checks.check_settings)
        checks_.register(checks.check_project)
        checks_.register(checks.check_schema, checks_.Tags.database)
        try:
            chosen = config.read()
        except ImproperlyConfigured:
            return  # said by check_settings, beside what else is wrong
        for name in chosen.autodiscover:
            autodiscover_modules(name)
        for name in chosen.task_modules:
            if checks.is_there(name):
                import_module(name)
