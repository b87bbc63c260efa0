"""Apply the migrations that a database lacks, each in a transaction of its own.

Files are named `NNNN_<pre|post>_<what>.sql`: *pre* files only add and may be applied while the last
release still runs, *post* files take away what it needed. Ten processes may do this at once: an
advisory lock, held only within each transaction (so a pooler is no obstacle), lets one go first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from ..errors import SchemaChanged, SchemaMissing, SchemaTooNew
from ..steps import Atomic, Query, Script, Steps

_NAME = re.compile(r"(\d{4})_(pre|post)_(\w+)\.sql")

# A script, like the migrations: whoever waits for another's waits as long as it takes.
LOCK_KEY = "hashtextextended({channel} || ':migrations', 0)"
_LOCK = f"SELECT pg_advisory_xact_lock({LOCK_KEY})"

# Looked for before it is made: a role that may not create schemas can still use one made for it.
HAS_SCHEMA = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = {channel}"
MAKE_SCHEMA = "CREATE SCHEMA {soniq}"
HAS_TABLE = """
    SELECT count(*) FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = {channel} AND c.relname = 'migrations'"""
MAKE_TABLE = """
    CREATE TABLE {soniq}.migrations (
        version integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT statement_timestamp()
    )"""
_APPLIED = "SELECT version, name, checksum FROM {soniq}.migrations ORDER BY version"
_RECORD = """
    INSERT INTO {soniq}.migrations (version, name, checksum)
    VALUES (CAST(%(version)s AS integer), CAST(%(name)s AS text), CAST(%(checksum)s AS text))"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file.

    Attributes:
        version: Its number; applied in this order.
        phase: `pre` or `post` the deploy of the code that comes with it.
        name: The file's name without `.sql`.
        sql: Its text, with `{soniq}` and `{channel}` still in it.
    """

    version: int
    phase: str
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """A digest of the text, kept with the record of its application."""
        return sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration as the database remembers it."""

    version: int
    name: str
    checksum: str


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What a database has beside what this code carries.

    Attributes:
        applied: Names of migrations in the database, in order.
        pending: Names of migrations the code carries and the database lacks.
        newer: Names of migrations in the database that the code does not know.
    """

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    newer: tuple[str, ...]


@cache
def migrations() -> tuple[Migration, ...]:
    """Read the files this code carries, in order."""
    found = []
    for file in files("soniq.schema").joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], file.name.removesuffix(".sql"), text))
    return tuple(sorted(found, key=lambda migration: migration.version))


def setup() -> Steps[list[str]]:
    """Bring the schema up to this code; answer the names of the migrations applied now.

    Raises:
        SchemaTooNew: The database knows a migration that this code does not.
        SchemaChanged: A migration was edited after it had been applied.
    """
    yield from Atomic(_prepare())
    _refuse_newer((yield from applied()))
    done = []
    for migration in migrations():
        if (yield from Atomic(_apply(migration))):
            done.append(migration.name)
    return done


def apply(name: str) -> Steps[bool]:
    """Apply one migration if the database lacks it, for tools that keep the order themselves.

    Returns:
        Whether it was applied now.

    Raises:
        SchemaChanged: The migration was edited after it had been applied.
    """
    (migration,) = (each for each in migrations() if each.name == name)
    yield from Atomic(_prepare())
    return (yield from Atomic(_apply(migration)))


def applied() -> Steps[list[Applied]]:
    """List the migrations in the database; empty where the schema is missing."""
    (present,) = yield from Query(HAS_TABLE, decode=lambda row: bool(row[0]))
    if not present:
        return []
    return (yield from Query(_APPLIED, decode=lambda row: Applied(row[0], row[1], row[2])))


def status() -> Steps[SchemaStatus]:
    """Compare the database with the code, changing nothing."""
    have = yield from applied()
    known = {migration.version for migration in migrations()}
    present = {record.version for record in have}
    return SchemaStatus(
        applied=tuple(record.name for record in have),
        pending=tuple(m.name for m in migrations() if m.version not in present),
        newer=tuple(record.name for record in have if record.version not in known),
    )


def require() -> Steps[None]:
    """Check that the schema is one this code can run on.

    A newer `pre` migration is no obstacle: it is applied while the last release still runs. Nor is
    a `post` migration that is still to come: it is applied when the last release is gone.

    Raises:
        SchemaMissing: It is absent, or older than this code.
        SchemaTooNew: A `post` migration that this code does not know took something away.
    """
    state = yield from status()
    if not state.applied:
        raise SchemaMissing(
            "The database has no Soniq schema yet. Run `soniq setup`, or call setup(); in a "
            "Django project run `manage.py migrate`."
        )
    if lacking := [name for name in state.pending if "_post_" not in name]:
        raise SchemaMissing(
            f"The database's Soniq schema is older than this code: {', '.join(lacking)} "
            "not applied. Run `soniq setup`, or call setup(); in a Django project run `manage.py "
            "migrate`."
        )
    if any("_post_" in name for name in state.newer):
        raise SchemaTooNew(_too_new(state.newer))


def _prepare() -> Steps[None]:
    yield from Script(_LOCK)
    (has_schema,) = yield from Query(HAS_SCHEMA, decode=lambda row: bool(row[0]))
    if not has_schema:
        yield from Script(MAKE_SCHEMA)
    (has_table,) = yield from Query(HAS_TABLE, decode=lambda row: bool(row[0]))
    if not has_table:
        yield from Script(MAKE_TABLE)


def _apply(migration: Migration) -> Steps[bool]:
    yield from Script(_LOCK)
    for record in (yield from applied()):
        if record.version == migration.version:
            _refuse_changed(record, migration)
            return False
    yield from Script(migration.sql)
    params = {
        "version": migration.version,
        "name": migration.name,
        "checksum": migration.checksum,
    }
    yield from Query(_RECORD, params)
    return True


def _refuse_newer(have: list[Applied]) -> None:
    known = {migration.version for migration in migrations()}
    newer = tuple(record.name for record in have if record.version not in known)
    if newer:
        raise SchemaTooNew(_too_new(newer))


def _refuse_changed(record: Applied, migration: Migration) -> None:
    if record.checksum != migration.checksum:
        raise SchemaChanged(
            f"Migration {record.name} in the database is not the one this code carries. "
            "Install the release that applied it, or restore the file; never edit one that ran."
        )


def _too_new(newer: tuple[str, ...]) -> str:
    return (
        f"The database's Soniq schema is newer than this code: {', '.join(newer)}. "
        "Upgrade soniq in this environment."
    )
