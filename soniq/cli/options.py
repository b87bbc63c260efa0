"""What every command takes, and commands that are imported only when they are called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..client.base import Base
    from ..client.sync import SoniqSync

SHARED = ("app", "database_url", "color", "debug")


@dataclass(slots=True)
class State:
    """What the shared options said, before or after the command's name."""

    app: str | None = None
    database_url: str | None = None
    debug: bool = False

    def application(self) -> Base:
        """Find the application, moved to `--database-url` if that was given.

        Raises:
            AppNotFound: None, or more than one, was found.
        """
        from .discover import find

        found = find(self.app)
        if self.database_url is not None:
            found._app.move_to(self.database_url)
        return found

    def client(self) -> SoniqSync:
        """Make a client for looking at the database; an application is of use, but no need.

        Raises:
            AppNotFound: More than one was found, so it is not clear whose database is meant.
        """
        from ..client.sync import SoniqSync
        from .discover import find_any, synchronous

        if self.database_url is not None and self.app is None:
            return SoniqSync(self.database_url)
        found = find_any(self.app)
        if found is None:
            return SoniqSync(self.database_url)
        if self.database_url is not None:
            found._app.move_to(self.database_url)
        return synchronous(found)

    def shown_url(self, client: Base) -> str:
        """Name the client's database, without its password."""
        from ..db.conninfo import redacted

        return redacted(client._app.home.url())


def shared_options() -> list[click.Parameter]:
    """Make the options that may stand before and after a command's name."""
    return [
        click.Option(
            ["-A", "--app"],
            metavar="MODULE:NAME",
            help="The application, for example app:eq.",
            expose_value=False,
            callback=_keep,
        ),
        click.Option(
            ["--database-url"],
            metavar="URL",
            help="The database; over every other place that names one.",
            expose_value=False,
            callback=_keep,
        ),
        click.Option(
            ["--color/--no-color"],
            default=None,
            help="Colours; at a terminal, unless NO_COLOR is set.",
            expose_value=False,
            callback=_colour,
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            default=None,
            help="Show the traceback of a fault.",
            expose_value=False,
            callback=_keep,
        ),
    ]


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None and option.name is not None:
        setattr(context.ensure_object(State), option.name, value)


def _colour(context: click.Context, option: click.Parameter, value: bool | None) -> None:
    if value is not None:
        context.color = value
    elif context.color is None and os.environ.get("NO_COLOR"):
        context.color = False


class Command(click.Command):
    """A command with the shared options, in a section of their own in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *shared_options()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first."""
        write_options(self, ctx, formatter)


def write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write a command's own options, then the shared ones."""
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            (shared if parameter.name in SHARED else own).append(record)
    for title, records in (("Options", own), ("Options of every command", shared)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class Group(click.Group):
    """A group whose commands take the shared options."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *shared_options()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write commands first: they are what somebody without one looks for."""
        self.format_commands(ctx, formatter)
        write_options(self, ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a misspelt one is answered with the nearest."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            near = get_close_matches(args[0], known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
            ctx.fail(f"There is no command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


class ReaderGone(Exception):
    """Whoever read our output left, as `head` does; no fault of anybody."""


class LazyGroup(Group):
    """A group that knows its commands' summaries, and imports a command when it is called.

    Args:
        commands_at: `module:name` and the summary of each command, by its name.
    """

    def __init__(self, *args: Any, commands_at: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at = commands_at

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command.

        Raises:
            ReaderGone: Whoever read our output left. click would end the process with 1.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names, in the order a new user meets them."""
        return list(self._at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._at:
            return None
        module, _, name = self._at[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._at.items()])
