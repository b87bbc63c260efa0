"""A Django project in this process, set up once, on a database of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import psycopg
import pytest

HAS_DJANGO = find_spec("django") is not None
collect_ignore_glob = [] if HAS_DJANGO else ["test_*.py"]

if HAS_DJANGO:
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "integrations.django.settings"
    django.setup()
    del os.environ["DJANGO_SETTINGS_MODULE"]  # other tests start processes that are no part of it


@pytest.fixture(scope="session")
def project_url(make_database: Callable[..., str]) -> str:
    """The project's database, made by `manage.py migrate`; one for each xdist worker."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    from .settings import entry

    url = make_database()
    # As Django's own test runner does it.
    connections["default"].settings_dict.update(entry(url))
    settings.DATABASES["default"].update(entry(url))
    call_command("migrate", verbosity=0)
    return url


@pytest.fixture(autouse=True)
def project(project_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The project with nothing in its database; every test has it."""
    from django.db import connections

    from soniq.integrations.django import soniq_sync

    monkeypatch.setenv("DJANGO_TEST_URL", project_url)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "integrations.django.settings")
    with psycopg.connect(project_url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE soniq.jobs, soniq.history, soniq.dead_letters, soniq.queues, soniq.workers,"
            " soniq.schedules, soniq.keys, soniq.gates, shop_order"
        )
    yield project_url
    soniq_sync.close()
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # of a TestCase, for all of its tests
            connection.close()


@pytest.fixture
def witness(project: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Ask the database from outside of Django; answers rows."""
    with psycopg.connect(project, autocommit=True) as connection:

        def look(sql: str, *params: Any) -> list[tuple[Any, ...]]:
            cursor = connection.execute(sql.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

        yield look


@pytest.fixture
def stored(witness: Callable[..., Any]) -> Callable[[], int]:
    """Count the jobs that others can see."""
    return lambda: int(witness("SELECT count(*) FROM soniq.jobs")[0][0])
