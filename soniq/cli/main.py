"""The command `soniq`: its subcommands, and how every fault ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click

from .. import __version__
from ..errors import InvalidTransition, JobNotFound, ScheduleNotFound, SoniqError, UsageError
from .options import LazyGroup, ReaderGone, State

OK, FAILED, MISUSED, NO_SUCH_JOB, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed: database, settings or application; or a worker left threads behind
  2    the command, an option or an argument is wrong
  3    there is no such job or schedule, or its state does not allow it
  130  interrupted

\b
The database is the one of --database-url, of the application, of SONIQ_DATABASE_URL or of
[tool.soniq] database_url; with none of them, a private PostgreSQL (extra `embedded`).
The application is the one of --app, SONIQ_APP, [tool.soniq] app or SONIQ_JOBS_MODULES, or the
single one in jobs.py, tasks.py, app.py or main.py of the working folder.
"""

# Name, where the command is, and what `soniq --help` says of it without importing it.
COMMANDS = {
    "setup": ("soniq.cli.schema:setup", "Create the tables, or bring them up to date."),
    "migrate-status": ("soniq.cli.schema:migrate_status", "Compare the schema with this release."),
    "migrations": ("soniq.cli.migrations:migrations", "Export the schema: SQL, Alembic, Django."),
    "worker": ("soniq.cli.worker:worker", "Run jobs until stopped."),
    "status": ("soniq.cli.status:status", "Show queues and workers."),
    "enqueue": ("soniq.cli.enqueue:enqueue", "Enqueue a job: NAME key=value ..."),
    "queues": ("soniq.cli.queues:queues", "Look at queues; pause, limit, empty and move them."),
    "jobs": ("soniq.cli.jobs:jobs", "List, show, explain, cancel, retry and delete jobs."),
    "dead-letter": ("soniq.cli.dead_letter:dead_letter", "Look after jobs that died."),
    "schedules": (
        "soniq.cli.schedules:schedules",
        "List, show, preview, pause, resume, run and remove schedules.",
    ),
    "scheduler": (
        "soniq.cli.scheduler:scheduler",
        "Fire schedules until stopped, and run no jobs.",
    ),
    "demo": ("soniq.cli.demo:demo", "See it work: sign-ups, mails, a retry, in one terminal."),
}


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="soniq %(version)s")
def soniq() -> None:
    """Background jobs on the PostgreSQL your application already has."""


def main(arguments: Sequence[str] | None = None, *, application: str | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code.

    Args:
        arguments: The process's unless given.
        application: The one that is meant where nothing else names one.
    """
    with _default(application):
        sys.exit(_run(arguments))


@contextmanager
def _default(application: str | None) -> Iterator[None]:
    """Name an application in the environment, so that processes started from here find it too."""
    if application is None or "SONIQ_APP" in os.environ:
        yield
        return
    os.environ["SONIQ_APP"] = application
    try:
        yield
    finally:
        del os.environ["SONIQ_APP"]


def _run(arguments: Sequence[str] | None) -> int:
    state = State()
    try:
        answer = soniq.main(arguments, prog_name="soniq", standalone_mode=False, obj=state)
        code = answer if isinstance(answer, int) else OK
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        _forget_stdout()
        code = OK
    except click.Abort:
        click.echo("soniq: interrupted", err=True)
        code = INTERRUPTED
    except click.ClickException as error:
        code = _refuse(error)
    except Exception as error:  # noqa: BLE001 - the last resort of a process
        code = _explain(error, debug=state.debug)
    return code


def _refuse(error: click.ClickException) -> int:
    """Say what was wrong with the command line, and where to read on; answer the exit code."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" or context is None:
        error.show()
        return error.exit_code
    click.echo(f"soniq: {error.format_message()}\nSee `{context.command_path} --help`.", err=True)
    return error.exit_code


def _explain(error: Exception, *, debug: bool) -> int:
    """Say what went wrong, in a line for what could be foreseen; answer the exit code."""
    ours = _ours(error)
    if debug or (ours is None and not isinstance(error, OSError)):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError):  # the disk is full, a file is not ours to read
        click.echo(f"soniq: {error}", err=True)
        _forget_stdout()
        return FAILED
    if ours is None:
        click.echo("soniq: this was not foreseen; please report it with the lines above", err=True)
        return FAILED
    click.echo(f"soniq: {ours}", err=True)
    if isinstance(ours, JobNotFound | ScheduleNotFound | InvalidTransition):
        return NO_SUCH_JOB
    return MISUSED if isinstance(ours, UsageError) else FAILED


def _ours(error: BaseException) -> SoniqError | None:
    """Find our error, alone or within the groups that task groups make."""
    if isinstance(error, SoniqError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [ours for each in error.exceptions if (ours := _ours(each)) is not None]
        return found[0] if len(found) == len(error.exceptions) else None
    return None


def _forget_stdout() -> None:
    # What could not be written cannot be written at exit either, and Python would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
