"""`soniq migrations export`: the schema for people who apply it with another tool."""

from __future__ import annotations

import click

from .options import Group, State


@click.group(cls=Group)
def migrations() -> None:
    """Export the schema, for another tool to apply."""


@migrations.command()
@click.option("--sql", "form", flag_value="sql", help="A script, for psql and tools like it.")
@click.option("--alembic", "form", flag_value="alembic", help="A revision for Alembic.")
@click.option("--django", "form", flag_value="django", help="A migration for Django.")
@click.option("--down-revision", metavar="ID", help="Alembic: the revision it follows.")
@click.option(
    "--depends-on", metavar="APP.NAME", multiple=True, help="Django: a migration it follows."
)
@click.pass_obj
def export(
    state: State,
    /,
    *,
    form: str | None,
    down_revision: str | None,
    depends_on: tuple[str, ...],
) -> None:
    """Write the migrations as a file, to standard output.

    What it does is what `soniq setup` does: what the database has already is left out when it
    runs, so it may run on any database, and `soniq setup` too. After an upgrade of Soniq with new
    migrations, export again.
    """
    from ..db.render import render
    from ..schema import export as export_

    with state.client() as client:
        schema = client.settings.schema

    def named(sql: str) -> str:
        return render(sql, schema)

    match form:
        case "sql":
            text = export_.as_sql(named)
        case "alembic":
            text = export_.as_alembic(named, down_revision=down_revision)
        case "django":
            pairs = [_app_and_name(each) for each in depends_on]
            text = export_.as_django(named, dependencies=pairs)
        case _:
            raise click.UsageError("Say which form: --sql, --alembic or --django.")
    click.echo(text, nl=False)


def _app_and_name(text: str) -> tuple[str, str]:
    app, dot, name = text.partition(".")
    if not (app and dot and name):
        raise click.UsageError(f"--depends-on takes APP.NAME, as shop.0003_orders, not {text!r}.")
    return app, name
