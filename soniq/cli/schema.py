"""`soniq setup` and `soniq migrate-status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import Command, State
from .show import as_json, counted, table

if TYPE_CHECKING:
    from ..schema.migrate import SchemaStatus


@click.command(cls=Command)
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def setup(state: State, /, *, json_: bool) -> None:
    """Create the tables, or bring them up to date.

    The database is created too if it is missing and the role may do so. It can be run at any time,
    by any number of processes at once.
    """
    with state.client() as client:
        applied = client.setup()
        schema = client.settings.schema
        if json_:
            as_json({"schema": schema, "applied": applied})
            return
        for name in applied:
            click.echo(f"applied {name}")
        place = f"The schema {schema!r} in {state.shown_url(client)}"
        click.echo(f"{place} {'is ready' if applied else 'is up to date'}.")


@click.command("migrate-status", cls=Command)
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def migrate_status(state: State, /, *, json_: bool) -> int:
    """Compare the schema with this release.

    Exits with 1 unless this release can run on it, so that a deployment can ask before it starts.
    """
    from ..schema import migrate

    with state.client() as client:
        found = client._run(migrate.status)
        if json_:
            as_json({"applied": found.applied, "pending": found.pending, "newer": found.newer})
        else:
            table(("STATE", "MIGRATION"), _rows(found))
            click.echo(_verdict(found), err=True)
    return 1 if found.pending or _breaking(found) else 0


def _rows(found: SchemaStatus) -> list[tuple[str, str]]:
    known = [name for name in found.applied if name not in found.newer]
    states = (("applied", known), ("pending", found.pending), ("newer", found.newer))
    return [(state, name) for state, names in states for name in names]


def _verdict(found: SchemaStatus) -> str:
    if _breaking(found):
        return "The schema is newer than this release. Upgrade soniq in this environment."
    if found.pending:
        pending = counted(len(found.pending), "migration")
        return f"{pending} to be applied. Run `soniq setup`."
    return "The schema is up to date."


def _breaking(found: SchemaStatus) -> bool:
    # A newer `pre` migration only adds; this release runs on.
    return any("_post_" in name for name in found.newer)
