"""The whole example, started and stopped: mail server, database, worker and web."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from processes import Failed, Process
from smtp import MailServer

from soniq import SoniqSync

FOLDER = Path(__file__).resolve().parent
NAMES = ("Ada", "Brahma", "Chen", "Dede", "Emmy", "Farid", "Grace", "Hedy", "Ines", "Jun")
START_SECONDS = 60.0
WORKER = ("worker", "--queues", "emails", "--concurrency", "2")


@dataclass(frozen=True, slots=True)
class SignedUp:
    """A user who was saved, and the job that was stored in the same transaction."""

    name: str
    user_id: int
    job_id: str

    @property
    def message_id(self) -> str:
        """The id of the mail that has to arrive, once."""
        return f"<welcome-{self.user_id}@myapp.example>"


class Stage:
    """What runs on it, and what may be asked of it.

    Attributes:
        mails: The mail server.
        eq: A client to look at the jobs with.
        worker_arguments: What follows `soniq` to start the worker.
        worker: The worker's process, once started.
        web: The web's process, once started.
        http: A client of the web, once started.
    """

    worker: Process
    web: Process
    http: httpx.Client

    def __init__(self, mails: MailServer, eq: SoniqSync, *, sync: bool) -> None:
        self.mails = mails
        self.eq = eq
        self._sync = sync
        # app.py is found by itself, as the one application in a file of a usual name.
        self.worker_arguments = (*WORKER, "sync_app:eq") if sync else WORKER
        self._environment = _environment(mails, eq)
        self._closing = ExitStack()

    def start_worker(self) -> None:
        """Start `soniq worker`, a process of its own."""
        self.worker = self._start("The worker", "soniq", *self.worker_arguments)

    def start_web(self) -> None:
        """Start the web application, a process of its own, and wait for its address.

        Raises:
            Failed: It did not start.
        """
        if self._sync:
            self.web = self._start("The web", "flask", "--app", "sync_app", "run", "--port", "0")
        else:
            self.web = self._start("The web", "uvicorn", "app:app", "--port", "0")
        url = self.web.wait_for_line(r"[Rr]unning on (http://\S+)", START_SECONDS)[1]
        self.http = httpx.Client(base_url=url, timeout=30, verify=False)  # plain http
        self._closing.callback(self.http.close)

    def sign_up(self, name: str) -> SignedUp:
        """Sign a user up over HTTP.

        Raises:
            Failed: The answer was not "created".
        """
        try:
            answer = self.http.post("/users", json={"name": name})
        except httpx.HTTPError as error:
            self.web.check()
            raise Failed(f"POST /users failed: {error!r}{self.web.last_words()}") from error
        if answer.status_code != httpx.codes.CREATED:
            raise Failed(
                f"POST /users answered {answer.status_code}: {answer.text}{self.web.last_words()}"
            )
        created = answer.json()
        return SignedUp(name, created["user_id"], created["job_id"])

    def check(self) -> None:
        """Make sure that everything still runs.

        Raises:
            Failed: A process has ended.
        """
        self.worker.check()
        self.web.check()

    def stop(self) -> None:
        """Ask worker and web to end, with SIGTERM, and wait for that.

        Raises:
            Failed: One of them did not end, or not well.
        """
        self.check()
        self.web.stop()
        if code := self.worker.stop():
            raise Failed(f"The worker ended with exit code {code}.{self.worker.last_words()}")

    def close(self) -> None:
        """End what still runs, whatever it says."""
        self._closing.close()

    def _start(self, name: str, program: str, *arguments: str) -> Process:
        # As modules of this Python, so that nothing depends on PATH.
        command = [sys.executable, "-m", program, *arguments]
        process = Process(name, command, folder=FOLDER, environment=self._environment)
        self._closing.callback(process.close)
        return process


@contextmanager
def stage(
    *, sync: bool = False, database_url: str | None = None, mails: MailServer | None = None
) -> Iterator[Stage]:
    """Set everything up; at the end stop what still runs.

    Args:
        sync: The Flask twin instead of the FastAPI application.
        database_url: The database; None is the setting, or else the embedded PostgreSQL.
        mails: A mail server, not yet started, instead of one that refuses each mail once.

    Raises:
        Failed: The database has another application's users.
        SoniqError: The database could not be used.
    """
    with SoniqSync(database_url) as eq, mails or MailServer() as running:
        eq.setup()
        _refuse_foreign_users(eq)
        made = Stage(running, eq, sync=sync)
        try:
            yield made
        finally:
            made.close()


def _environment(mails: MailServer, eq: SoniqSync) -> dict[str, str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"SONIQ_APP", "SONIQ_JOBS_MODULES", "SONIQ_QUEUES"}
    }
    environment |= {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mails.port)}
    # Whatever named the database here, a pyproject.toml for one, is not read in that folder.
    environment["SONIQ_SCHEMA"] = eq.settings.schema
    if eq.settings.database_url is not None:
        environment["SONIQ_DATABASE_URL"] = eq.settings.database_url
    return environment


def _refuse_foreign_users(eq: SoniqSync) -> None:
    with eq.backend.acquire() as conn:
        foreign = conn.fetchval(
            "SELECT to_regclass('users') IS NOT NULL AND NOT EXISTS ("
            " SELECT FROM pg_attribute"
            " WHERE attrelid = to_regclass('users') AND attname = 'welcomed_at')"
        )
    if foreign:
        raise Failed(
            "This database has a table `users` that is not this example's, and it will not touch "
            "that. Set SONIQ_DATABASE_URL to an empty database, or unset it."
        )
