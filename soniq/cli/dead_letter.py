"""`soniq dead-letter list|show|replay|delete`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .jobs import each, show_job
from .options import Group, State
from .show import as_json, at_terminal, counted, exact, table

if TYPE_CHECKING:
    from ..client.sync import SoniqSync
    from ..job.record import DeadLetter

HEAD = ("ID", "TASK", "QUEUE", "ATTEMPTS", "DIED", "REPLAYED", "ERROR")


@click.group("dead-letter", cls=Group)
def dead_letter() -> None:
    """Look after jobs that died: attempts used up, or refused."""


@dead_letter.command("list")
@click.option("-Q", "--queue", help="Only of this queue.")
@click.option("-t", "--task", help="Only of this task.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", metavar="ID", help="The next page: only jobs older than this one.")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def list_(state: State, /, *, json_: bool, **asked: Any) -> None:
    """List dead letters, newest job first."""
    with state.client() as client:
        found = client.dead_letter.list(**asked)
    if json_:
        as_json([_plain(letter) for letter in found])
        return
    table(HEAD, [_row(letter) for letter in found], empty="There are no dead letters.")
    if len(found) == asked["limit"] and at_terminal():
        click.echo(f"There may be more: --before {found[-1].id}", err=True)


@dead_letter.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def show(state: State, /, *, job_id: str, json_: bool) -> None:
    """Show a dead letter: why it died, and every attempt with its traceback."""
    with state.client() as client:
        letter = client.dead_letter.get(job_id)
    if json_:
        as_json(_plain(letter))
        return
    replayed = ("replayed", exact(letter.replayed_at))
    show_job(letter.job, replayed, ("replayed as", letter.replayed_as))


def bulk(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of what can be done to many dead letters at once."""
    for option in (
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        click.option("-t", "--task", help="With --all: only of this task."),
        click.option("-Q", "--queue", help="With --all: only of this queue."),
        click.option("--all", "all_", is_flag=True, help="Every one, instead of ids."),
        click.argument("job_ids", metavar="[ID]...", nargs=-1),
    ):
        command = option(command)
    return command


@dead_letter.command()
@bulk
@click.option("--again", is_flag=True, help="With --all: also those that were replayed before.")
@click.pass_obj
def replay(
    state: State,
    /,
    *,
    job_ids: tuple[str, ...],
    queue: str | None,
    task: str | None,
    all_: bool,
    yes: bool,
    again: bool,
) -> int:
    """Make new jobs of dead letters, with all their attempts; the letters stay."""
    _check(job_ids, all_=all_, narrowed=bool(queue or task or again))
    with state.client() as client:
        if not all_:
            return each(job_ids, lambda job_id: _replayed(client, job_id))
        letters = [
            letter.id
            for letter in _every(client, queue, task)
            if again or letter.replayed_at is None
        ]
        return _in_bulk(letters, "Replay", "replayed", client.dead_letter.replay, yes=yes)


@dead_letter.command()
@bulk
@click.pass_obj
def delete(
    state: State,
    /,
    *,
    job_ids: tuple[str, ...],
    queue: str | None,
    task: str | None,
    all_: bool,
    yes: bool,
) -> int:
    """Delete dead letters for good."""
    _check(job_ids, all_=all_, narrowed=bool(queue or task))
    with state.client() as client:
        if not all_:
            return each(job_ids, lambda job_id: _deleted(client, job_id))
        letters = [letter.id for letter in _every(client, queue, task)]
        return _in_bulk(letters, "Delete", "deleted", client.dead_letter.delete, yes=yes)


def _check(job_ids: tuple[str, ...], *, all_: bool, narrowed: bool) -> None:
    if bool(job_ids) is all_:
        raise click.UsageError("Give ids, or --all (which --queue and --task narrow).")
    if narrowed and not all_:
        raise click.UsageError("--queue, --task and --again narrow --all; ids need none of them.")


def _every(client: SoniqSync, queue: str | None, task: str | None) -> Iterator[DeadLetter]:
    before = None
    while page := client.dead_letter.list(queue, task=task, limit=1000, before=before):
        yield from page
        before = page[-1].id


def _in_bulk(
    letters: list[str], verb: str, done: str, act: Callable[[str], object], *, yes: bool
) -> int:
    number = counted(len(letters), "dead letter")
    if letters and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{verb} {number}? Nobody is here to ask: add --yes.")
        if not click.confirm(f"{verb} {number}?", err=True):
            click.echo(f"No dead letter {done}")
            return 1
    count = 0
    try:
        for job_id in _with_progress(letters, verb):
            count += _happened(act, job_id)
    finally:
        # Also when interrupted: the operator wants to know how far it got.
        click.echo(f"{counted(count, 'dead letter')} {done}")
    return 0


def _happened(act: Callable[[str], object], job_id: str) -> bool:
    from ..errors import JobNotFound

    try:
        return bool(act(job_id))
    except JobNotFound:  # somebody was quicker
        return False


def _with_progress(letters: list[str], verb: str) -> Iterator[str]:
    if not sys.stderr.isatty():
        yield from letters
        return
    with click.progressbar(letters, label=f"{verb} ", file=sys.stderr) as bar:
        yield from bar


def _replayed(client: SoniqSync, job_id: str) -> str:
    return f"{job_id} runs again as {client.dead_letter.replay(job_id)}"


def _deleted(client: SoniqSync, job_id: str) -> str:
    from ..errors import JobNotFound

    if client.dead_letter.delete(job_id):
        return f"{job_id} deleted"
    raise JobNotFound(f"There is no dead letter {job_id}.")


def _row(letter: DeadLetter) -> tuple[object, ...]:
    job = letter.job
    error = job.last_error or job.reason or ""
    if at_terminal() and len(error) > 60:
        error = error[:59] + "…"
    died, replayed = job.finished_at, letter.replayed_at
    return (job.id, job.task, job.queue, job.attempt, died, replayed, error)


def _plain(letter: DeadLetter) -> dict[str, Any]:
    about = {"replayed_at": letter.replayed_at, "replayed_as": letter.replayed_as}
    return {**letter.job, **about}
