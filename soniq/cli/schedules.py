"""`soniq schedules list|show|preview|pause|resume|run|remove`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from .options import Group, State
from .show import as_json, at_terminal, compact, exact, fields, table

if TYPE_CHECKING:
    from ..client.sync import SoniqSync
    from ..job.schedule import Schedule

HEAD = ("NAME", "TASK", "WHEN", "ZONE", "STATE", "OWNER", "NEXT", "LAST")

names = click.argument("names", metavar="NAME...", nargs=-1, required=True)
json_option = click.option("--json", "json_", is_flag=True, help="Write one JSON document.")


@click.group(cls=Group)
def schedules() -> None:
    """List, show, preview, pause, resume, run and remove schedules."""


@schedules.command("list")
@click.option("-t", "--task", help="Only of this task.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--after", metavar="NAME", help="The next page: only names after this one.")
@json_option
@click.pass_obj
def list_(state: State, /, *, json_: bool, **asked: Any) -> None:
    """List schedules by name."""
    with state.client() as client:
        found = client.scheduler.list(**asked)
    if json_:
        as_json([_plain(schedule) for schedule in found])
        return
    table(HEAD, [_row(schedule) for schedule in found], empty="There are no schedules.")
    if len(found) == asked["limit"] and at_terminal():
        click.echo(f"There may be more: --after {found[-1].name}", err=True)


@schedules.command()
@click.argument("name")
@json_option
@click.pass_obj
def show(state: State, /, *, name: str, json_: bool) -> None:
    """Show a schedule: when it runs, what it enqueues, and what it did last."""
    with state.client() as client:
        schedule = client.scheduler.get(name)
    if json_:
        as_json(_plain(schedule))
        return
    jitter = f"up to {schedule.jitter:g} s" if schedule.jitter else None
    catch_up = schedule.catch_up
    fields(
        (
            ("name", schedule.name),
            ("state", schedule.state + (", waits for the job before" * schedule.waiting)),
            ("owner", schedule.owner),
            ("when", str(schedule.timing)),
            ("zone", schedule.timezone),
            ("jitter", jitter),
            (
                "catch up",
                f"all, at most {schedule.catch_up_max}" if catch_up == "all" else catch_up,
            ),
            ("overlap", schedule.overlap),
            ("task", schedule.task),
            ("arguments", compact(schedule.args)),
            ("queue", schedule.queue),
            ("priority", schedule.priority),
            ("tags", ", ".join(schedule.tags or ())),
            ("next", exact(schedule.next_run)),
            ("last", exact(schedule.last_run)),
            ("last job", schedule.last_job_id),
            ("jobs made", schedule.runs),
            ("created", exact(schedule.created_at)),
            ("changed", exact(schedule.changed_at)),
            ("retired", exact(schedule.retired_at)),
        )
    )


@schedules.command()
@click.argument("name")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=10, show_default=True)
@json_option
@click.pass_obj
def preview(state: State, /, *, name: str, count: int, json_: bool) -> None:
    """Show a schedule's next moments, in its time zone and without jitter."""
    from ..job.timing import zone_of

    with state.client() as client:
        zone = zone_of(client.scheduler.get(name).timezone)
        moments = client.scheduler.preview(name, count)
    shown = [moment.astimezone(zone).isoformat() for moment in moments]
    if json_:
        as_json(shown)
        return
    for each in shown:
        click.echo(each)


@schedules.command()
@names
@json_option
@click.pass_obj
def pause(state: State, /, *, names: tuple[str, ...], json_: bool) -> int:
    """Leave schedules alone until they are resumed."""

    def act(client: SoniqSync, name: str) -> str:
        return "paused" if client.scheduler.pause(name) else "was paused already"

    return _each(state, names, act, json_=json_)


@schedules.command()
@names
@json_option
@click.pass_obj
def resume(state: State, /, *, names: tuple[str, ...], json_: bool) -> int:
    """Go on with paused schedules, from their next moments."""

    def act(client: SoniqSync, name: str) -> str:
        return "resumed" if client.scheduler.resume(name) else "was not paused"

    return _each(state, names, act, json_=json_)


@schedules.command()
@names
@json_option
@click.pass_obj
def run(state: State, /, *, names: tuple[str, ...], json_: bool) -> int:
    """Enqueue schedules' jobs now, beside their moments."""

    def act(client: SoniqSync, name: str) -> str:
        return f"runs now as {client.scheduler.run_now(name)}"

    return _each(state, names, act, json_=json_)


@schedules.command()
@names
@json_option
@click.pass_obj
def remove(state: State, /, *, names: tuple[str, ...], json_: bool) -> int:
    """Forget schedules of users, or retired ones; their jobs stay."""

    def act(client: SoniqSync, name: str) -> str:
        client.scheduler.remove(name)
        return "removed"

    return _each(state, names, act, json_=json_)


def _each(
    state: State, names: Iterable[str], act: Callable[[SoniqSync, str], str], *, json_: bool
) -> int:
    """Do something to each and say so; those that cannot be are told, and the rest are done.

    Returns:
        The exit code: 3 if a schedule was not there or its state did not allow it.
    """
    from ..errors import InvalidTransition, ScheduleNotFound

    code, said = 0, []
    with state.client() as client:
        for name in names:
            try:
                done = act(client, name)
            except (ScheduleNotFound, InvalidTransition) as error:
                click.echo(f"soniq: {error}", err=True)
                code = 3
                continue
            said.append({"name": name, "done": done})
            if not json_:
                click.echo(f"{name} {done}")
    if json_:
        as_json(said)
    return code


def _row(schedule: Schedule) -> tuple[object, ...]:
    nothing = schedule.state != "active"
    return (
        schedule.name,
        schedule.task,
        str(schedule.timing),
        schedule.timezone,
        schedule.state,
        schedule.owner,
        None if nothing else schedule.next_run,
        schedule.last_run,
    )


def _plain(schedule: Schedule) -> dict[str, Any]:
    return {**schedule, "state": schedule.state}
