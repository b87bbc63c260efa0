"""Soniq's SQL migrations as operations of Django's: one source, two ways to apply it."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations.base import Operation

from ...schema import migrate


class ApplySoniq(Operation):
    """Apply one of Soniq's SQL migrations, unless `soniq setup` did so before.

    It is recorded as `soniq setup` records it, so both may be used on one database.

    Args:
        name: Of the file, without `.sql`.
    """

    reduces_to_sql = True
    reversible = False  # it would take the jobs with it: DROP SCHEMA ... CASCADE, by hand

    def __init__(self, name: str) -> None:
        self.name = name

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model: theirs are unmanaged."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Apply it, on the database that holds the jobs and on no other."""
        from .clients import client, holds_jobs

        if not holds_jobs(schema_editor.connection):
            return
        sync = client().sync
        if schema_editor.collect_sql:
            schema_editor.collected_sql += _lines(self.name, sync.settings.schema)
        else:
            sync.within(schema_editor.connection)._run(migrate.apply, self.name)

    def describe(self) -> str:
        """Name it in the output of `migrate --plan`."""
        return f"Soniq's {self.name}"


def _lines(name: str, schema: str) -> list[str]:
    from ...db.render import encoded

    (found,) = (each for each in migrate.migrations() if each.name == name)
    return [f"-- {name}.sql", encoded(found.sql, schema).decode()]
