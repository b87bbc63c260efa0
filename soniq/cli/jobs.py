"""`soniq jobs list|show|why|cancel|retry|delete`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from .options import Group, State
from .show import as_json, at_terminal, compact, exact, fields, table

if TYPE_CHECKING:
    from ..client.sync import SoniqSync
    from ..job.record import Attempt, Job

HEAD = ("ID", "TASK", "QUEUE", "STATUS", "ATTEMPT", "WHEN", "ARGUMENTS")
STATUSES = ("scheduled", "queued", "processing", "done", "cancelled", "dead_letter")


@click.group(cls=Group)
def jobs() -> None:
    """List, show, explain, cancel, retry and delete jobs."""


@jobs.command("list")
@click.option("-s", "--status", type=click.Choice(STATUSES), help="Only jobs that are this.")
@click.option("-Q", "--queue", help="Only jobs of this queue.")
@click.option("-t", "--task", help="Only jobs of this task.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", metavar="ID", help="The next page: only jobs older than this one.")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def list_(state: State, /, *, json_: bool, **asked: Any) -> None:
    """List jobs, newest first, wherever in their lives they are.

    WHEN is when a job ended, or is or was due.
    """
    with state.client() as client:
        found = client.list_jobs(**asked)
    if json_:
        as_json(found)
        return
    table(HEAD, [_row(job) for job in found], empty="There are no such jobs.")
    if len(found) == asked["limit"] and at_terminal():
        click.echo(f"There may be more: --before {found[-1].id}", err=True)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def show(state: State, /, *, job_id: str, json_: bool) -> None:
    """Show a job: its state, arguments, result, and what went wrong in which attempt."""
    with state.client() as client:
        job = client.get_job(job_id)
    if json_:
        as_json(job)
    else:
        show_job(job)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def why(state: State, /, *, job_id: str, json_: bool) -> None:
    """Say why a job has not run, or what became of it."""
    with state.client() as client:
        said = client.why(job_id)
    as_json({"id": job_id, "why": said}) if json_ else click.echo(said)


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def cancel(state: State, /, *, job_ids: tuple[str, ...]) -> int:
    """Cancel jobs: a waiting one leaves at once, a running one is asked to stop."""
    with state.client() as client:
        return each(job_ids, lambda job_id: _cancelled(client, job_id))


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def retry(state: State, /, *, job_ids: tuple[str, ...]) -> int:
    """Run jobs now: a scheduled one as it is, one that has ended as a new job."""
    with state.client() as client:
        return each(job_ids, lambda job_id: _retried(client, job_id))


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def delete(state: State, /, *, job_ids: tuple[str, ...]) -> int:
    """Forget jobs that are not running: nothing is left of them, not even in history."""
    with state.client() as client:
        return each(job_ids, lambda job_id: _deleted(client, job_id))


def each(job_ids: Iterable[str], act: Callable[[str], str]) -> int:
    """Do something to each job and say so; those that cannot be are told, and the rest are done.

    Returns:
        The exit code: 3 if a job was not there or its state did not allow it.
    """
    from ..errors import InvalidTransition, JobNotFound
    from ..job.ids import checked_id

    code = 0
    for job_id in [checked_id(job_id) for job_id in job_ids]:
        try:
            click.echo(act(job_id))
        except (JobNotFound, InvalidTransition) as error:
            click.echo(f"soniq: {error}", err=True)
            code = 3
    return code


def show_job(job: Job, *more: tuple[str, object]) -> None:
    """Write a job's fields, one below the other, and its attempts."""
    fields(
        (
            ("id", job.id),
            ("task", job.task),
            ("queue", job.queue),
            ("status", str(job.status)),
            ("reason", job.reason),
            ("cancel", "requested" if job.cancel_requested else None),
            ("attempt", f"{job.attempt} of {job.max_attempts}"),
            ("priority", job.priority),
            ("arguments", compact(job.args)),
            ("result", None if job.result is None else compact(job.result)),
            ("tags", ", ".join(job.tags)),
            ("timeout", None if job.timeout is None else f"{job.timeout:g} s"),
            ("created", exact(job.created_at)),
            ("due", exact(job.scheduled_at)),
            ("started", exact(job.started_at)),
            ("finished", exact(job.finished_at)),
            ("worker", job.worker_id),
            *more,
        )
    )
    for attempt in job.attempts:
        _show_attempt(attempt)


def _show_attempt(attempt: Attempt) -> None:
    click.echo()
    outcome = attempt.outcome.replace("_", " ")
    click.echo(click.style(f"attempt {attempt.attempt}: {outcome}", bold=True))
    fields(
        (
            ("error", attempt.error),
            ("started", exact(attempt.started_at)),
            ("ended", exact(attempt.ended_at)),
            ("worker", attempt.worker_id),
        )
    )
    for line in (attempt.traceback or "").splitlines():
        click.echo("  " + _visible(line))


def _visible(line: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _row(job: Job) -> tuple[object, ...]:
    attempt = f"{job.attempt}/{job.max_attempts}"
    when = job.finished_at or job.scheduled_at
    return (job.id, job.task, job.queue, job.status, attempt, when, compact(job.args, 40))


def _cancelled(client: SoniqSync, job_id: str) -> str:
    from ..errors import InvalidTransition
    from ..job.record import JobStatus

    if client.cancel_job(job_id):
        running = _status(client, job_id) is JobStatus.PROCESSING
        return f"{job_id} is running; it was asked to stop" if running else f"{job_id} cancelled"
    job = client.get_job(job_id)
    raise InvalidTransition(f"Job {job_id} has ended ({job.status}); there is nothing to cancel.")


def _deleted(client: SoniqSync, job_id: str) -> str:
    from ..errors import InvalidTransition

    if client.delete_job(job_id):
        return f"{job_id} deleted"
    job = client.get_job(job_id)
    raise InvalidTransition(f"Job {job_id} is {job.status}. Cancel it, and delete it then.")


def _status(client: SoniqSync, job_id: str) -> object:
    from ..errors import JobNotFound

    try:
        return client.get_job(job_id).status
    except JobNotFound:  # deleted meanwhile
        return None


def _retried(client: SoniqSync, job_id: str) -> str:
    made = client.retry_job(job_id)
    return f"{job_id} runs now" if made == job_id else f"{job_id} runs again as {made}"
