"""`soniq queues list|show|pause|resume|limit|purge|move`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from .kinds import DURATION, MOMENT, NONE, OrNone
from .options import Group, State
from .show import as_json, at_terminal, counted, duration, exact, fields, moment, table

if TYPE_CHECKING:
    from ..job.queue import QueueStats

HEAD = (
    "QUEUE", "SCHEDULED", "QUEUED", "PROCESSING", "DEAD_LETTERS", "WAITING", "RATE", "WORKERS",
    "PAUSED", "LIMITS",
)  # fmt: skip
ON_FULL = ("raise", "drop_oldest", "wait")
WAITING = ("scheduled", "queued")


@click.group(cls=Group)
def queues() -> None:
    """Look at queues; pause, limit, empty and move them."""


@queues.command("list")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def list_(state: State, /, *, json_: bool) -> None:
    """List queues: how they stand, who serves them, and what was said about them.

    WAITING is how long the job that waits longest has been due, RATE is attempts that ended per
    second lately.
    """
    with state.client() as client:
        found = client.queues.list()
    if json_:
        as_json(found)
        return
    table(HEAD, [_row(queue) for queue in found], empty="There are no queues yet.")


@queues.command()
@click.argument("name")
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def show(state: State, /, *, name: str, json_: bool) -> None:
    """Show one queue."""
    with state.client() as client:
        queue = client.queues.get(name)
    if json_:
        as_json(queue)
        return
    fields(
        (
            ("queue", queue.queue),
            ("scheduled", queue.scheduled),
            ("queued", queue.queued),
            ("processing", queue.processing),
            ("dead letters", queue.dead_letters),
            ("waiting", _waiting(queue)),
            ("rate", _rate(queue)),
            ("workers", queue.workers),
            ("paused", queue.paused),
            ("until", exact(queue.paused_until)),
            ("limits", limits_of(queue)),
        )
    )


@queues.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--for", "seconds", type=DURATION, metavar="TIME", help="Resume by itself after 10m.")
@click.option("--until", type=MOMENT, metavar="MOMENT", help="Resume by itself at that moment.")
@click.pass_obj
def pause(
    state: State, /, *, names: tuple[str, ...], seconds: float | None, until: datetime | None
) -> None:
    """Have workers take nothing from queues; jobs that run go on, new ones wait."""
    if seconds is not None and until is not None:
        raise click.UsageError("Give --for or --until, not both.")
    with state.client() as client:
        for name in names:
            client.queues.pause(name, until if seconds is None else seconds)
            end = client.queues.get(name).paused_until
            click.echo(f"{name} is paused" + ("" if end is None else f" until {exact(end)}"))


@queues.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def resume(state: State, /, *, names: tuple[str, ...]) -> None:
    """Have workers take from queues again, at once."""
    with state.client() as client:
        for name in names:
            was = client.queues.resume(name)
            click.echo(f"{name} runs again" if was else f"{name} was not paused")


@queues.command()
@click.argument("name")
@click.option("--concurrency", type=OrNone(click.INT), help="Jobs at once, over all workers.")
@click.option("--rate-limit", "rate_limit", type=OrNone(), help="Starts in a time: 100/minute.")
@click.option(
    "--rate-burst", "rate_burst", type=OrNone(click.INT), help="Starts at once after a rest."
)
@click.option("--max-depth", type=OrNone(click.INT), help="Jobs that may wait.")
@click.option("--on-full", type=click.Choice(ON_FULL), help="What becomes of one too many.")
@click.option("--aging", type=OrNone(DURATION), help="Waiting time for a step of priority.")
@click.pass_obj
def limit(state: State, /, *, name: str, **given: Any) -> None:
    """Say what a queue may do; `none` takes a limit away, what is left out stays.

    Workers obey at their next claim, programs that enqueue within seconds.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    with state.client() as client:
        client.queues.limit(
            name, **{key: None if value == NONE else value for key, value in changes.items()}
        )
        said = limits_of(client.queues.get(name))
    click.echo(f"{name}: {said or 'no limits'}")


def _sent(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of what sends many jobs away."""
    for option in (
        click.option("--json", "json_", is_flag=True, help="Write one JSON document; needs --yes."),
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        click.option("--preview", is_flag=True, help="Count them, and leave them."),
        click.option("-t", "--task", help="Only jobs of this task."),
        click.option("-s", "--state", "which", type=click.Choice(WAITING), help="Only these."),
    ):
        command = option(command)
    return command


@queues.command()
@click.argument("name")
@_sent
@click.pass_obj
def purge(state: State, /, *, name: str, which: str | None, task: str | None, **how: Any) -> int:
    """Cancel the jobs that wait in a queue; they are in history, as purged."""
    with state.client() as client:

        def act(*, preview: bool) -> int:
            return client.queues.purge(name, state=which, task=task, preview=preview)  # type: ignore[arg-type]

        return _send(act, f"Cancel {{}} of {name}", f"{{}} of {name} cancelled", **how)


@queues.command()
@click.argument("name", metavar="FROM")
@click.argument("target", metavar="TO")
@_sent
@click.pass_obj
def move(
    state: State, /, *, name: str, target: str, which: str | None, task: str | None, **how: Any
) -> int:
    """Give the jobs that wait in a queue to another."""
    with state.client() as client:

        def act(*, preview: bool) -> int:
            return client.queues.move(name, target, state=which, task=task, preview=preview)  # type: ignore[arg-type]

        ways = f"from {name} to {target}"
        return _send(act, f"Move {{}} {ways}", f"{{}} moved {ways}", **how)


def _send(
    act: Callable[..., int], question: str, answer: str, *, preview: bool, yes: bool, json_: bool
) -> int:
    """Count, ask, act and say; answer the exit code."""
    number = act(preview=True) if preview or not yes else 0
    asked = question.format(counted(number, "job"))
    if preview:
        as_json({"jobs": number, "preview": True}) if json_ else click.echo(f"{asked}?")
        return 0
    if number and not yes:
        if json_ or not sys.stdin.isatty():
            raise click.UsageError(f"{asked}? Nobody is here to ask: add --yes.")
        if not click.confirm(f"{asked}?", err=True):
            return 1
    done = act(preview=False) if number or yes else 0
    if json_:
        as_json({"jobs": done, "preview": False})
    else:
        click.echo(answer.format(counted(done, "job")))
    return 0


def limits_of(queue: QueueStats) -> str:
    """Write what was said about a queue in one line; empty if nothing was."""
    said = [
        (queue.concurrency, f"{queue.concurrency} at once"),
        (queue.rate_limit, f"{queue.rate_limit}"),
        (queue.rate_burst, f"burst {queue.rate_burst}"),
        (queue.max_depth, f"depth {queue.max_depth} ({queue.on_full})"),
        (queue.aging, f"aging {queue.aging:g} s" if queue.aging else ""),
    ]
    return ", ".join(text for value, text in said if value is not None)


def paused_of(queue: QueueStats) -> object:
    """Write whether a queue is paused, and until when if that is known."""
    if queue.paused_until is None:
        return queue.paused
    return f"until {queue.paused_until:%H:%M:%S}" if at_terminal() else moment(queue.paused_until)


def _row(queue: QueueStats) -> tuple[object, ...]:
    numbers = (queue.scheduled, queue.queued, queue.processing, queue.dead_letters)
    said = (paused_of(queue), limits_of(queue))
    return (queue.queue, *numbers, _waiting(queue), _rate(queue), queue.workers, *said)


def _waiting(queue: QueueStats) -> str | None:
    if queue.oldest_seconds is None:
        return None
    return duration(queue.oldest_seconds) if at_terminal() else f"{queue.oldest_seconds:.3f}"


def _rate(queue: QueueStats) -> str:
    return f"{queue.rate:.1f}/s" if at_terminal() else f"{queue.rate:.3f}"
