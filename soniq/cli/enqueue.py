"""`soniq enqueue NAME key=value ...`, and `--from FILE` for many."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from difflib import get_close_matches
from typing import IO, TYPE_CHECKING, Any

import click

from ..errors import UnknownTask
from .kinds import DURATION, MOMENT, Source
from .options import Command, State
from .show import as_json, at_terminal, counted

if TYPE_CHECKING:
    from ..client.base import Base
    from ..job.task import Task, TaskRef


@click.command(cls=Command)
@click.argument("name")
@click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--args", "args_", metavar="JSON", help="Arguments as one JSON object.")
@click.option("-Q", "--queue", help="Where the job goes; the task's own queue unless said.")
@click.option("--priority", type=int, help="1 (first) to 1000 (last).")
@click.option("--delay", type=DURATION, help="Run it so much later: 90, 90s, 5m, 2h, 1d.")
@click.option("--at", type=MOMENT, help="Run it at a moment: 2026-01-31T12:00:00+01:00.")
@click.option("--unique", is_flag=True, help="Only if no live job has the same arguments.")
@click.option("--dedup-key", metavar="KEY", help="Only if no live job of the task has this key.")
@click.option("--unique-for", type=DURATION, help="Hold the key so long in any case: 90s, 5m, 2h.")
@click.option(
    "--on-conflict",
    type=click.Choice(["skip", "replace", "raise"]),
    help="What to do if a job has the key: skip this one, replace what waits, or fail.",
)
@click.option(
    "--from",
    "from_",
    type=Source("rb"),
    metavar="FILE",
    help="A job for each line of a file, or of `-`: JSON objects with the arguments.",
)
@click.option(
    "--commit-every",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --from: store after each N lines what came so far; else all lines or none.",
)
@click.option(
    "--unchecked",
    is_flag=True,
    help="Enqueue by name alone: the task's code need not be here, and nothing is checked.",
)
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def enqueue(
    state: State,
    /,
    *,
    name: str,
    values: tuple[str, ...],
    args_: str | None,
    queue: str | None,
    priority: int | None,
    delay: float | None,
    at: datetime | None,
    unique: bool,
    dedup_key: str | None,
    unique_for: float | None,
    on_conflict: str | None,
    from_: IO[bytes] | None,
    commit_every: int | None,
    unchecked: bool,
    json_: bool,
) -> None:
    """Enqueue a job of the task NAME.

    A value is read as JSON if it is JSON, else as text: user_id=1 is a number, name=Ann is text,
    zip='"01234"' is text as well. The module may be left out of NAME if no other task has it.

    In a pipe, the answer is the job's id, or that of the one that has its key; with --from, the
    number of new jobs.
    """
    from ..job.task import TaskRef
    from .discover import synchronous
    from .lines import enqueue_lines

    if from_ is not None and (values or args_ is not None):
        raise click.UsageError("--from gives the arguments: leave --args and KEY=VALUE out.")
    if commit_every is not None and from_ is None:
        raise click.UsageError("--commit-every is for --from.")
    arguments = _arguments(args_, values)
    options = {
        "queue": queue,
        "priority": priority,
        "delay": delay,
        "scheduled_at": at,
        "unique": unique or None,
        "dedup_key": dedup_key,
        "unique_for": unique_for,
        "on_conflict": on_conflict,
    }
    target: Task[..., Any] | TaskRef
    if unchecked:
        client, target = state.client(), TaskRef(name)
    else:
        application = state.application()
        client, target = synchronous(application), _task(application, name)
    # Through options(), so that a task may have a parameter called `queue`.
    target = target.options(**{name: value for name, value in options.items() if value is not None})
    with client:
        if from_ is None:
            answer: str | int = client.enqueue(target, args=arguments)
        else:
            answer = enqueue_lines(client, target, from_, commit_every)
    _tell(target, answer, json_=json_)


def _tell(target: Task[..., Any] | TaskRef, answer: str | int, *, json_: bool) -> None:
    """Say which job was enqueued, or has the key, by its id; or how many were."""
    task = target.name
    if json_:
        as_json({"id" if isinstance(answer, str) else "enqueued": answer, "task": task})
    elif not at_terminal():
        click.echo(answer)
    elif isinstance(answer, int):
        click.echo(f"Enqueued {task} {counted(answer, 'time')}.")
    elif _has_key(target):
        click.echo(f"Job {answer} of {task} has the key.")
    else:
        click.echo(f"Enqueued {task} as {answer}.")


def _has_key(target: Task[..., Any] | TaskRef) -> bool:
    from ..job.task import TaskRef

    declared = None if isinstance(target, TaskRef) else target.defaults.unique
    return target.chosen.unique is not None or declared is not None


def _task(application: Base, name: str) -> Task[..., Any]:
    """Find a task by its name, or by the end of it if only one ends so."""
    known = {task.name: task for task in application.registry}
    short = [task for task in known.values() if task.name.endswith(f".{name}")]
    if name in known:
        return known[name]
    if len(short) == 1:
        return short[0]
    raise UnknownTask(_unknown(name, list(known), [task.name for task in short]))


def _unknown(name: str, known: list[str], short: list[str]) -> str:
    near = short or get_close_matches(name, [*known, *(n.rpartition(".")[2] for n in known)])
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    else:
        hint = f"This application has: {', '.join(sorted(known)) or 'none'}."
    return f"No task is named {name!r}. {hint} If its code lives elsewhere, add --unchecked."


def _arguments(text: str | None, values: Iterable[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if text is not None:
        try:
            arguments = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise click.BadParameter(f"this is not JSON: {error}", param_hint="--args") from None
        if not isinstance(arguments, dict):
            raise click.BadParameter(
                "arguments go by name: an object such as '{\"user_id\": 1}'", param_hint="--args"
            )
    for value in values:
        key, equals, said = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(
                f"{value!r} is not key=value, as in user_id=1", param_hint="KEY=VALUE"
            )
        if key in arguments:
            raise click.BadParameter(f"{key!r} is given twice", param_hint="KEY=VALUE")
        arguments[key] = _read(said)
    return arguments


def _read(said: str) -> Any:
    try:
        return json.loads(said, parse_constant=_refuse)
    except json.JSONDecodeError:
        return said
    except (ValueError, RecursionError) as error:  # JSON, but with a number of too many digits
        raise click.BadParameter(f"it cannot be read: {error}", param_hint="KEY=VALUE") from None


def _refuse(constant: str) -> None:
    # Python's reader takes NaN and Infinity, which are no JSON.
    raise json.JSONDecodeError("no JSON", constant, 0)
