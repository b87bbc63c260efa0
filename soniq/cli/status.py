"""`soniq status`: how the queues stand, and who works."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from .options import Command, State
from .queues import limits_of, paused_of
from .show import as_json, at_terminal, duration, table

QUEUE_HEAD = (
    "QUEUE", "SCHEDULED", "QUEUED", "PROCESSING", "DEAD_LETTERS", "WAITING", "PAUSED", "LIMITS",
)  # fmt: skip
WORKER_HEAD = ("WORKER", "HOST", "STATE", "RUNNING", "SLOTS", "QUEUES", "SEEN")
STOPPED_HEAD = ("STOPPED", "KEY", "FOR", "TRIED_WITH")


@click.command(cls=Command)
@click.option("--json", "json_", is_flag=True, help="Write one JSON document.")
@click.pass_obj
def status(state: State, /, *, json_: bool) -> None:
    """Show queues and workers, and tasks that a circuit breaker has stopped.

    WAITING is how long the job that waits longest has been due.
    """
    from ..schema import migrate
    from ..store import gates
    from ..store import workers as workers_

    with state.client() as client:
        client._run(migrate.require)
        queues = client.get_queue_stats()
        (text,) = client._run(workers_.listed().__iter__)
        workers = [] if text is None else json.loads(text)
        stopped = client._run(gates.stopped().__iter__)
        url = state.shown_url(client)
        patience = client.settings.heartbeat_timeout
    for worker in workers:
        worker["silent"] = worker["silent_seconds"] > patience
    if json_:
        as_json({"database": url, "queues": queues, "workers": workers, "stopped": stopped})
        return
    if at_terminal():
        click.echo(click.style(url, dim=True) + "\n")
    _show_queues(queues)
    click.echo()
    _show_workers(workers)
    if stopped:
        click.echo()
        table(STOPPED_HEAD, [_stopped_row(gate) for gate in stopped])


def _show_queues(queues: list[Any]) -> None:
    if not queues and at_terminal():
        click.echo("No jobs are waiting, running or dead.")
        return
    table(QUEUE_HEAD, [_queue_row(queue) for queue in queues])


def _queue_row(queue: Any) -> tuple[object, ...]:
    waiting = queue.oldest_seconds
    if waiting is not None:
        waiting = duration(waiting) if at_terminal() else f"{waiting:.3f}"
    numbers = (queue.scheduled, queue.queued, queue.processing, queue.dead_letters)
    return (queue.queue, *numbers, waiting, paused_of(queue), limits_of(queue))


def _show_workers(workers: list[Mapping[str, Any]]) -> None:
    if not workers and at_terminal():
        click.echo("No worker is running. Start one: soniq worker")
        return
    table(WORKER_HEAD, [_worker_row(worker) for worker in workers])


def _worker_row(worker: Mapping[str, Any]) -> tuple[object, ...]:
    silent = worker["silent_seconds"]
    seen = f"{duration(silent)} ago" if at_terminal() else f"{silent:.3f}"
    return (
        worker["id"],
        worker["name"],
        "silent" if worker["silent"] else worker["state"],
        worker["running"],
        worker["concurrency"],
        ",".join(worker["queues"] or ("*",)),
        seen,
    )


def _stopped_row(gate: Mapping[str, Any]) -> tuple[object, ...]:
    seconds = gate["seconds"]
    left = duration(seconds) if at_terminal() else f"{seconds:.3f}"
    return (gate["task"], gate["key"], left, gate["tried_with"])
