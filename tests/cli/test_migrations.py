"""`soniq migrations export`: applied by psycopg, by Alembic and by Django, it is `soniq setup`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from catalog import catalog
from psycopg.conninfo import conninfo_to_dict

from soniq import SoniqSync
from soniq.errors import SchemaChanged
from soniq.schema import migrate

from .conftest import PATIENCE, ROOT

pytestmark = PATIENCE
Apply = Callable[[str, Path], "subprocess.CompletedProcess[str]"]

ENV_PY = """
import os
from alembic import context
from sqlalchemy import create_engine

engine = create_engine(f"postgresql+{os.environ['DRIVER']}://", connect_args=dict(
    pair.split("=", 1) for pair in os.environ["ADDRESS"].split()))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
SETTINGS = """
import os

address = dict(pair.split("=", 1) for pair in os.environ["ADDRESS"].split())
INSTALLED_APPS = ["kept"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": address["dbname"],
    "USER": address["user"], "HOST": address["host"], "PORT": address["port"],
    "PASSWORD": address.get("password", "")}}
USE_TZ = True
"""


def export(*options: str) -> str:
    return run("-m", "soniq", "migrations", "export", *options).stdout


def run(*command: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**plain(), "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def plain() -> dict[str, str]:
    """The environment without what other tests of this process left there."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("SONIQ_", "DJANGO_"))}


def address(url: str) -> str:
    return " ".join(f"{name}={value}" for name, value in conninfo_to_dict(url).items())


def by_script(url: str, _: Path) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(export("--sql").encode())


def by_alembic(driver: str) -> Callable[[str, Path], None]:
    def apply(url: str, folder: Path) -> None:
        pytest.importorskip("alembic")
        (folder / "versions").mkdir(exist_ok=True)
        (folder / "versions" / "soniq_tables.py").write_text(export("--alembic"))
        (folder / "env.py").write_text(ENV_PY)
        (folder / "alembic.ini").write_text("[alembic]\nscript_location = .\npath_separator = os\n")
        run("-m", "alembic", "upgrade", "head", folder=folder, ADDRESS=address(url), DRIVER=driver)

    return apply


def by_django(url: str, folder: Path) -> None:
    pytest.importorskip("django")
    package = folder / "kept" / "migrations"
    package.mkdir(parents=True, exist_ok=True)
    for each in (folder / "kept", package):
        (each / "__init__.py").touch()
    (package / "0001_soniq.py").write_text(export("--django"))
    (folder / "kept_settings.py").write_text(SETTINGS)
    settings = {"DJANGO_SETTINGS_MODULE": "kept_settings", "ADDRESS": address(url)}
    run("-m", "django", "migrate", "--verbosity=0", folder=folder, **settings)


WAYS = {
    "sql": by_script,
    "alembic": by_alembic("psycopg"),
    "alembic, psycopg2": by_alembic("psycopg2"),
    "django": by_django,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("old", [False, True], ids=["empty", "old"])
def test_every_form_ends_in_the_schema_of_setup(
    way: str, old: bool, empty_database: str, database_url: str, tmp_path: Path
) -> None:
    with SoniqSync(empty_database) as eq:
        if old:
            eq._run(migrate.apply, migrate.migrations()[0].name)
        WAYS[way](empty_database, tmp_path)
        assert catalog(empty_database) == catalog(database_url)
        assert eq.setup() == []


def test_a_script_may_run_again_and_refuses_a_schema_that_is_another(empty_database: str) -> None:
    by_script(empty_database, ROOT)
    before = catalog(empty_database)
    by_script(empty_database, ROOT)
    assert catalog(empty_database) == before
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE soniq.migrations SET checksum = 'x' WHERE version = 2")
    with pytest.raises(psycopg.errors.RaiseException, match="0002_pre_functions"):
        by_script(empty_database, ROOT)
    with SoniqSync(empty_database) as eq, pytest.raises(SchemaChanged):
        eq.setup()


def test_the_schema_and_what_is_followed_are_as_asked() -> None:
    named = run("-m", "soniq", "migrations", "export", "--sql", SONIQ_SCHEMA="jobs").stdout
    assert 'CREATE TABLE "jobs".jobs' in named
    assert '"soniq"' not in named
    assert "down_revision = 'abc123'" in export("--alembic", "--down-revision", "abc123")
    assert "[('shop', '0003_orders')]" in export("--django", "--depends-on", "shop.0003_orders")


def test_a_form_must_be_said() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "soniq", "migrations", "export"],
        env=plain(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--sql, --alembic or --django" in done.stderr
