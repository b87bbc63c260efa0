"""The migrations as files for other tools: plain SQL, an Alembic revision, a Django migration.

Each is a list of `DO` blocks, one for a migration. A block applies its migration only where the
database lacks it, and records it as `soniq setup` does, so that all ways end in one schema and may
be used on one database, again and again. One statement a block: asyncpg takes no more at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import migrate
from .migrate import Migration

Render = Callable[[str], str]

_PREPARE = f"""\
DO $soniq$
BEGIN
    PERFORM pg_advisory_xact_lock({migrate.LOCK_KEY});
    IF ({migrate.HAS_SCHEMA}) = 0 THEN
        {migrate.MAKE_SCHEMA};
    END IF;
    IF ({migrate.HAS_TABLE}) = 0 THEN
        {migrate.MAKE_TABLE};
    END IF;
END
$soniq$"""

_APPLY = """\
DO $soniq$
DECLARE
    applied text;
BEGIN
    PERFORM pg_advisory_xact_lock(LOCK_KEY);
    SELECT checksum INTO applied FROM {soniq}.migrations WHERE version = VERSION;
    IF applied IS NULL THEN
        EXECUTE $migration$
SQL
$migration$;
        INSERT INTO {soniq}.migrations (version, name, checksum) VALUES (VERSION, 'NAME', 'SUM');
    ELSIF applied <> 'SUM' THEN
        RAISE EXCEPTION 'Migration NAME in the database is not the one of this file. Export it '
            'anew with the release of Soniq that applied it.';
    END IF;
END
$soniq$"""

_ALEMBIC = '''\
"""Soniq's tables, up to {last}.

Written by `soniq migrations export --alembic`; again after an upgrade of Soniq, for what is new.
"""

from alembic import op

revision = {revision!r}
down_revision = {down_revision!r}
branch_labels = None
depends_on = None

BLOCKS = {blocks}


def upgrade() -> None:
    for block in BLOCKS:
        op.execute(block.replace(":", "\\\\:"))  # or SQLAlchemy took it for a parameter


def downgrade() -> None:
    raise NotImplementedError("It would take the jobs along: DROP SCHEMA ... CASCADE, by hand.")
'''

_DJANGO = '''\
"""Soniq's tables, up to {last}.

Written by `soniq migrations export --django`; again after an upgrade of Soniq, for what is new.
Projects with "soniq.integrations.django" in INSTALLED_APPS need no such file.
"""

from django.db import migrations

BLOCKS = {blocks}


class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL(BLOCKS)]
'''


def as_sql(render: Render) -> str:
    """Write a script for psql and tools like it."""
    blocks = [f"{block};\n" for block in _blocks(render)]
    return "\n".join([f"-- Soniq's tables, up to {_last().name}.\n", *blocks])


def as_alembic(render: Render, *, down_revision: str | None) -> str:
    """Write an Alembic revision.

    Args:
        render: Fills in the names of a schema.
        down_revision: The revision it follows; None makes it the first of a branch of its own.
    """
    return _ALEMBIC.format(
        last=_last().name,
        revision=f"soniq_{_last().version:04}",
        down_revision=down_revision,
        blocks=_literals(_blocks(render)),
    )


def as_django(render: Render, *, dependencies: Sequence[tuple[str, str]]) -> str:
    """Write a Django migration.

    Args:
        render: Fills in the names of a schema.
        dependencies: The (app, name) of the migrations it follows.
    """
    return _DJANGO.format(
        last=_last().name, dependencies=list(dependencies), blocks=_literals(_blocks(render))
    )


def _last() -> Migration:
    return migrate.migrations()[-1]


def _blocks(render: Render) -> list[str]:
    return [render(_PREPARE), *(render(_guarded(each)) for each in migrate.migrations())]


def _guarded(migration: Migration) -> str:
    parts = {
        "LOCK_KEY": migrate.LOCK_KEY,
        "VERSION": str(migration.version),
        "NAME": migration.name,
        "SUM": migration.checksum,
        "SQL": migration.sql.strip(),  # last: it may hold any of the words above
    }
    block = _APPLY
    for word, text in parts.items():
        block = block.replace(word, text)
    return block


def _literals(blocks: Sequence[str]) -> str:
    """Write texts as Python, readable as SQL: no migration has three quotes in a row."""
    return "[\n" + "".join(f'    r"""\n{block}\n""",\n' for block in blocks) + "]"
