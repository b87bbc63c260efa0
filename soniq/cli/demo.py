"""`soniq demo`: the email example, live in one terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..errors import MissingExtra, SettingsError
from .options import Command, State
from .show import COLOURS, at_terminal

NEEDED = ("aiosmtpd", "fastapi", "httpx", "uvicorn")
PATIENCE_SECONDS = 60.0
FRAME_SECONDS = 0.1


@click.command(cls=Command)
@click.option(
    "--users", type=click.IntRange(1, 1000), default=10, show_default=True, help="Sign-ups."
)
@click.pass_obj
def demo(state: State, /, *, users: int) -> None:
    """See it work: sign-ups, mails, a retry, in one terminal.

    Starts a FastAPI application, a worker and a mail server that refuses each mail once, signs
    users up over HTTP, and ends when every mail has arrived. In a pipe it writes lines.
    """
    _require_extra()
    with _example() as example:
        if not at_terminal():
            example.run.announce()
        try:
            with example.stage.stage(database_url=state.database_url) as running:
                if at_terminal():
                    url = state.shown_url(running.eq)
                    Live(example, running, url).play(users)
                else:
                    example.run.play(running, users)
        except example.processes.Failed as error:
            raise click.ClickException(str(error)) from error


class Example(NamedTuple):
    """The modules of `examples/email_jobs`."""

    stage: Any
    run: Any
    processes: Any


class Row(NamedTuple):
    """One user as the view shows them."""

    name: str
    status: str
    attempt: int
    mail: str


class Live:
    """The view at a terminal, drawn over itself until every mail has arrived.

    Args:
        example: The example's modules.
        running: Its stage, with nothing started.
        url: The database's address, to show.
    """

    def __init__(self, example: Example, running: Any, url: str) -> None:
        self._example = example
        self._running = running
        self._url = url
        self._users: list[Any] = []
        self._drawn = 0

    def play(self, number: int) -> None:
        """Start, sign up, draw until every mail has arrived, check and stop.

        Raises:
            Failed: Something did not start or end, or a mail is missing or came twice.
        """
        self._begin()
        names = self._example.stage.NAMES
        for place in range(number):
            self._users.append(self._running.sign_up(names[place % len(names)]))
            self._draw()
        self._follow()
        self._example.run.check(self._running, self._users)
        self._running.stop()

    def _begin(self) -> None:
        running = self._running
        click.echo(click.style("Soniq: sign-ups, mails, a retry", bold=True) + "\n")
        click.echo(f"  database     {self._url}")
        click.echo(f"  mail server  smtp://127.0.0.1:{running.mails.port}, refuses each mail once")
        running.start_worker()
        click.echo(f"  worker       soniq {' '.join(running.worker_arguments)}")
        running.start_web()
        click.echo(f"  web          {running.http.base_url}, POST /users\n")

    def _follow(self) -> None:
        mails, end = self._running.mails, time.monotonic() + PATIENCE_SECONDS
        while len(self._arrived()) < len(self._users) and time.monotonic() < end:
            seen = len(mails.deliveries)
            mails.wait(lambda seen=seen: len(mails.deliveries) > seen, FRAME_SECONDS)
            self._running.check()
            self._draw()
        if missing := len(self._users) - len(self._arrived()):
            words = self._running.worker.last_words()
            raise self._example.processes.Failed(f"{missing} mails did not come.{words}")
        for user in self._users:  # the mail is out a moment before its job is done
            self._running.eq.wait(user.job_id, timeout=PATIENCE_SECONDS)
        self._draw()

    def _arrived(self) -> set[str]:
        ours = {user.message_id for user in self._users}
        return {mail.message_id for mail in self._running.mails.inbox} & ours

    # -- drawing

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        rows = self._rows()
        lines = [self._summary(rows), "", *_table(rows, room=max(1, height - 5))]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        # Each line clears its rest: what stood there may have been longer.
        text = "".join(f"{_cut(line, colour, width)}\x1b[K\n" for line, colour in map(_pair, lines))
        click.echo(up + text, nl=False, color=True)
        sys.stdout.flush()
        self._drawn = len(lines)

    def _rows(self) -> list[Row]:
        by_id = {job.id: job for job in self._running.eq.list_jobs(queue="emails", limit=1000)}
        said: dict[str, list[str]] = {}
        for mail in list(self._running.mails.deliveries):
            word = "arrived" if mail.accepted else "refused"
            said.setdefault(mail.message_id, []).append(word)
        return [
            Row(user.name, job.status, job.attempt, ", ".join(said.get(user.message_id, ["-"])))
            for user in self._users
            if (job := by_id.get(user.job_id)) is not None
        ]

    def _summary(self, rows: Sequence[Row]) -> str:
        states = ("queued", "processing", "scheduled", "done")
        counts = [f"{sum(row.status == state for row in rows):>3} {state}" for state in states]
        return "  queue emails  " + " ".join(counts)


def _table(rows: Sequence[Row], *, room: int) -> Iterator[str | tuple[str, str]]:
    shown = rows if len(rows) <= room else rows[: room - 1]
    yield f"  {'USER':<8} {'JOB':<12} {'ATTEMPT':>7}  MAIL"
    for row in shown:
        line = f"  {row.name:<8} {row.status:<12} {row.attempt:>7}  {row.mail}"
        yield line, COLOURS.get(row.status, "")
    if len(shown) < len(rows):
        yield f"  and {len(rows) - len(shown)} more"


def _pair(line: str | tuple[str, str]) -> tuple[str, str]:
    return (line, "") if isinstance(line, str) else line


def _cut(line: str, colour: str, width: int) -> str:
    # A line that wraps would be two, and the next drawing one too low.
    context = click.get_current_context()
    text = line[: width - 1]
    return text if context.color is False or not colour else click.style(text, fg=colour)


# -- the example's files


def _require_extra() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"The demo needs {', '.join(missing)}, not installed here. "
            "pip install 'soniq[examples]'."
        )


@contextmanager
def _example() -> Iterator[Example]:
    """Make the example's modules importable, as they are for its own runner."""
    folder = str(_folder())
    sys.path.insert(0, folder)
    try:
        yield Example(*map(import_module, Example._fields))
    finally:
        sys.path.remove(folder)


def _folder() -> Path:
    """Find the example: a wheel carries a copy beside this file, a checkout has it at its root."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_email_jobs", here.parents[1] / "examples" / "email_jobs"):
        if (folder / "stage.py").is_file():
            return folder
    raise SettingsError("This installation lacks the demo's files. Install Soniq anew with pip.")
