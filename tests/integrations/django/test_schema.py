"""`migrate` and `soniq setup` make one schema, whichever comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import psycopg
import pytest
from catalog import catalog
from django.apps import apps
from django.core.management import call_command
from django.db import connections
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.loader import MigrationLoader

from soniq import SettingsError, SoniqSync
from soniq.integrations.django import checks, clients, soniq_sync
from soniq.integrations.django.address import DjangoHome
from soniq.integrations.django.schema import ApplySoniq
from soniq.schema.migrate import migrations

from .settings import entry


@pytest.fixture
def second(empty_database: str) -> Iterator[str]:
    """The URL of an empty database that Django's default connection leads to meanwhile."""
    chosen = connections["default"].settings_dict
    before = dict(chosen)
    connections.close_all()
    chosen.update(entry(empty_database))
    yield empty_database
    connections.close_all()
    chosen.update(before)


def by_soniq(url: str) -> list[str]:
    with SoniqSync(url) as eq:
        return eq.setup()


def by_django() -> None:
    call_command("migrate", "soniq", verbosity=0)


def test_both_ways_end_in_one_schema(second: str, database_url: str) -> None:
    by_django()
    assert catalog(second) == catalog(database_url)
    assert len(catalog(second)) > 100


def test_setup_after_migrate_has_nothing_to_do(second: str) -> None:
    by_django()
    before = catalog(second)
    assert by_soniq(second) == []
    by_django()
    assert catalog(second) == before


def test_migrate_after_setup_has_nothing_to_do(second: str) -> None:
    assert by_soniq(second) == [migration.name for migration in migrations()]
    before = catalog(second)
    by_django()
    assert catalog(second) == before


def test_every_sql_migration_is_one_of_djangos() -> None:
    """If this fails, add a module to soniq/integrations/django/migrations with an ApplySoniq."""
    loader = MigrationLoader(None)
    nodes = sorted(key for key in loader.disk_migrations if key[0] == "soniq")
    applied = [
        operation.name
        for key in nodes
        for operation in loader.disk_migrations[key].operations
        if isinstance(operation, ApplySoniq)
    ]
    # Django's order may be another: two of ours that know nothing of each other may be swapped.
    assert sorted(applied) == [migration.name for migration in migrations()]


def test_the_models_need_no_migration() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_every_column_is_a_field(project: str) -> None:
    """Of the tables that have a model; `trace` is for tracing alone."""
    with psycopg.connect(project) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'soniq'"
        ).fetchall()
    columns: dict[str, set[str]] = {}
    for table, column in rows:
        columns.setdefault(table, set()).add(column)
    for model in apps.get_app_config("soniq").get_models():
        table = model._meta.db_table.rpartition(".")[2].strip('"')
        fields = {field.column for field in model._meta.fields}
        assert fields == columns[table] - {"trace"}, table


def test_sqlmigrate_shows_the_sql() -> None:
    out = StringIO()
    call_command("sqlmigrate", "soniq", "0001", stdout=out)
    assert 'CREATE TABLE "soniq".jobs' in out.getvalue()


def test_nothing_is_made_on_another_database(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "holds_jobs", lambda connection: False)
    by_django()
    with psycopg.connect(second) as connection:
        found = connection.execute("SELECT to_regnamespace('soniq')").fetchone()
    assert found == (None,)


def test_jobs_are_not_dropped_by_migrating_back(second: str) -> None:
    by_django()
    with pytest.raises(IrreversibleError):
        call_command("migrate", "soniq", "zero", verbosity=0)


def test_the_check_tells_what_is_missing(second: str) -> None:
    (warning,) = checks.check_schema(databases=["default"])
    assert warning.id == "soniq.W002"
    assert warning.hint == "Run `manage.py migrate soniq`."
    by_django()
    assert checks.check_schema(databases=["default"]) == []
    with psycopg.connect(second) as connection:
        connection.execute(
            "INSERT INTO soniq.migrations (version, name, checksum)"
            " VALUES (9000, '9000_post_later', '')"
        )
    (error,) = checks.check_schema(databases=["default"])
    assert error.id == "soniq.E004"


def test_the_check_asks_no_database_unasked(second: str) -> None:
    assert checks.check_schema() == []
    assert connections["default"].connection is None


@pytest.fixture
def chosen_app(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda vendor: monkeypatch.setattr(type(connections["default"]), "vendor", vendor)


def test_the_check_wants_postgresql(chosen_app: Callable[[str], None]) -> None:
    assert checks.check_project() == []
    chosen_app("sqlite")
    (error,) = checks.check_project()
    assert error.id == "soniq.E002"
    with pytest.raises(SettingsError, match="is sqlite, and Soniq needs PostgreSQL"):
        DjangoHome(soniq_sync.settings, "default").url()


def test_the_check_looks_for_modules(settings_with: Callable[..., Any]) -> None:
    with settings_with(SONIQ={"TASK_MODULES": ["integrations.django.shop.jobs", "shop.nowhere"]}):
        (error,) = checks.check_project()
    assert error.id == "soniq.E003"
    assert "'shop.nowhere'" in error.msg
    with settings_with(SONIQ={"CONCURRENCY": 0}):
        (error,) = checks.check_settings()
        assert checks.check_project() == []
    assert error.id == "soniq.E001"


@pytest.fixture
def settings_with() -> Any:
    from django.test import override_settings

    return override_settings


def test_the_check_minds_the_order_of_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "get_commands", lambda: {"soniq": "other.app"})
    (warning,) = checks.check_project()
    assert warning.id == "soniq.W001"
    assert "before 'other.app'" in warning.hint


def test_the_pool_is_not_opened_by_checks(second: str) -> None:
    checks.check_schema(databases=["default"])
    assert soniq_sync.__dict__.get("_opened") is None or soniq_sync._database._opened is None
