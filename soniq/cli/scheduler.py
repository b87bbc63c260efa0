"""`soniq scheduler`: fire schedules, and run no jobs."""

from __future__ import annotations

import logging
import sys

import click

from ..observability import logs
from .options import Command, State
from .show import counted
from .worker import database_of, named_application

log = logging.getLogger("soniq.schedules")


@click.command(cls=Command)
@click.argument("application", metavar="[APP]", required=False)
@click.pass_context
def scheduler(context: click.Context, /, *, application: str | None) -> int:
    """Fire schedules until stopped, and run no jobs.

    Workers fire schedules as well; this is for a process apart, with workers that are started
    with --no-scheduler. Any number of them may run: each moment is fired once.

    APP is the application as module:name; see `soniq --help` for where it is looked for.
    """
    from ..worker import embed
    from ..worker.alone import Alone

    state: State = context.obj
    client = named_application(state, application)
    settings = client.settings
    coloured = sys.stderr.isatty() if context.color is None else context.color
    logs.configure(settings.log_level, settings.log_format, colour=coloured)
    logs.subscribe(client.bus)

    async def make() -> Alone:
        declared = counted(len(client.registry.schedules()), "schedule")
        log.info("scheduler starts: %s declared; database %s", declared, state.shown_url(client))
        return Alone(database_of(client), client.registry, settings, client.bus)

    return embed.run(make)
