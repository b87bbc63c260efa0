"""`soniq worker`: run jobs until stopped."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from ..observability import logs
from .options import Command, State

if TYPE_CHECKING:
    from ..client.base import Base
    from ..db.aio import Database
    from ..settings import Settings
    from ..worker.worker import Worker
    from .supervise import Seat

log = logging.getLogger("soniq.worker")


@click.command(cls=Command)
@click.argument("application", metavar="[APP]", required=False)
@click.option("-Q", "--queues", metavar="NAMES", help="Comma-separated; all of them unless said.")
@click.option("-c", "--concurrency", type=int, help="Jobs at once.")
@click.option("--threads", type=int, help="Threads for `def` jobs; as many as --concurrency.")
@click.option("--processes", type=int, help="Worker processes, each with --concurrency; 1.")
@click.option(
    "--ack",
    type=click.Choice(["durable", "relaxed"]),
    help="`relaxed`: do not wait for the disk to say that jobs are done; after a crash of the "
    "server the last ones run again.",
)
@click.option(
    "--scheduler/--no-scheduler",
    default=None,
    help="Keep and fire schedules too; yes, unless the setting says no.",
)
@click.option(
    "--run-once", "--burst", "run_once", is_flag=True, help="Stop when nothing is due any more."
)
@click.pass_context
def worker(
    context: click.Context,
    /,
    *,
    application: str | None,
    queues: str | None,
    concurrency: int | None,
    threads: int | None,
    processes: int | None,
    ack: str | None,
    scheduler: bool | None,
    run_once: bool,
) -> int:
    """Run jobs until stopped.

    APP is the application as module:name; see `soniq --help` for where it is looked for.

    SIGTERM or Ctrl-C lets running jobs finish (shutdown_timeout), then hands them back to the
    queue; a second one hands them back at once. It ends with 0, or with 1 when threads would not
    end: their jobs are named, and other workers take them over.

    With --processes, worker processes that die are replaced, and the worst of their exit codes is
    the command's.
    """
    state: State = context.obj
    client = named_application(state, application)
    settings = client.settings.with_(
        queues=queues,
        concurrency=concurrency,
        threads=threads,
        processes=processes,
        ack=ack,
        scheduler=scheduler,
    )
    _log_events(client, colour=context.color)
    seat = None
    if settings.processes > 1:
        # Imported once, here, for all of them.
        from ..worker import embed  # noqa: F401

        outcome = _supervise(settings, run_once=run_once)
        if isinstance(outcome, int):
            return outcome
        seat = outcome
        logs.name_process(seat.name)
    return _work(client, settings, state, seat, run_once=run_once)


def named_application(state: State, name: str | None) -> Base:
    """Find the application that a command was given as its argument, or by its options."""
    if name is not None:
        if state.app not in {None, name}:
            raise click.UsageError(f"The application is given twice: {name}, {state.app}.")
        state.app = name
    return state.application()


def _supervise(settings: Settings, *, run_once: bool) -> int | Seat:
    """Start worker processes; each comes back with its seat, the supervisor with the exit code."""
    from .supervise import Supervisor

    patience = settings.shutdown_timeout + settings.sync_grace
    log.info("the supervisor, process %d, starts %d workers", os.getpid(), settings.processes)
    supervisor = Supervisor(settings.processes, run_once=run_once, patience_seconds=patience)
    return supervisor.run()


def _work(
    client: Base, settings: Settings, state: State, seat: Seat | None, *, run_once: bool
) -> int:
    """Run one worker in this process."""
    from ..worker import embed

    async def make() -> Worker:
        from ..worker.worker import Worker

        app = client._app
        made = Worker(
            database_of(client),
            app.registry,
            settings,
            hooks=app.hooks,
            bus=app.bus,
            retry_policy=app.retry_policy,
            run_once=run_once,
        )
        log.info("%s", _introduction(made.id, client, settings, state))
        return made

    if seat is None:
        code = embed.run(make)
    else:
        with seat.line:
            code = embed.run(make, supervisor=seat.line, ready=seat.say_ready)
    if code:
        _leave_threads(code)
    return code


def database_of(client: Base) -> Database:
    """Give the async client's own, so that its handlers share the pool; a sync one has none."""
    from ..client.aio import Soniq
    from ..db.aio import Database

    if isinstance(client, Soniq):
        return client._database
    return Database(client.settings, **client._app.other_connections())


def _log_events(client: Base, *, colour: bool | None) -> None:
    settings = client.settings
    coloured = sys.stderr.isatty() if colour is None else colour
    logs.configure(settings.log_level, settings.log_format, colour=coloured)
    logs.subscribe(client.bus)
    if not len(client.registry):
        log.warning(
            "the application has no tasks, so this worker will take no jobs; import the modules "
            "that declare them, or name them in SONIQ_JOBS_MODULES"
        )


def _introduction(worker_id: str, client: Base, settings: Settings, state: State) -> str:
    names = client.registry.names()
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return (
        f"worker {worker_id} starts: {_queues(settings)}; "
        f"{settings.concurrency} at once; database {state.shown_url(client)}; "
        f"tasks: {shown or '(none)'}"
    )


def _queues(settings: Settings) -> str:
    return f"queues {', '.join(settings.queues)}" if settings.queues else "all queues"


def _leave_threads(code: int) -> NoReturn:
    # Python waits for its threads at exit, and these are the ones that do not end.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
