"""The email example as it is: real processes, a real mail server, a real database."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from soniq.db import _keeper

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "email_jobs"
sys.path.append(str(EXAMPLE))

import smtp  # noqa: E402
import stage as stage_  # noqa: E402


class HeldMails(smtp.MailServer):
    """A mail server that lets some mails through, and keeps the senders of others waiting.

    Attributes:
        free: How many mails may pass before senders are held.
        held: How many senders have been held so far.
    """

    def __init__(self, *, free: int = 0) -> None:
        super().__init__(refuse_first=False)
        self.free = free
        self.held = 0
        self._gate = threading.Event()

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        import asyncio

        if self.free > 0:
            self.free -= 1
        else:
            with self._changed:
                self.held += 1
                self._changed.notify_all()
            await asyncio.to_thread(self._gate.wait)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    def release(self) -> None:
        """Let everybody through from now on."""
        self._gate.set()

    def __exit__(self, *error: object) -> None:
        self.release()
        super().__exit__(*error)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the tests say reaches the example, and dead workers are noticed soon."""
    for name in os.environ:
        if name.startswith("SONIQ_") and name != "SONIQ_TEST_DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SONIQ_HEARTBEAT_INTERVAL", "0.2")
    monkeypatch.setenv("SONIQ_HEARTBEAT_TIMEOUT", "1")


@pytest.fixture
def stage(empty_database: str) -> Callable[..., Any]:
    """Set the example up on a fresh database: `with stage(...) as running`."""

    def make(**options: Any) -> Any:
        return stage_.stage(**{"database_url": empty_database, **options})

    return make


@pytest.fixture
def private_folder() -> Iterator[Path]:
    """A folder for an embedded server: not pytest's, which no other user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="soniq-example-"))
    folder.chmod(0o755)
    home = folder / "postgres"
    try:
        yield home
    finally:
        if home.exists():
            until(lambda: is_down(home))
            shutil.rmtree(os.path.realpath(home / "data"), ignore_errors=True)
        shutil.rmtree(folder)


def is_down(home: Path) -> bool:
    return not any(_keeper.is_held(f"{home}/{name}.lock") for name in ("server", "keeper"))


def until(fact: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "this did not become true in time"
        time.sleep(0.01)


def run(
    *command: str, folder: Path = ROOT, code: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python command to its end and see that it ends with that code."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def ask(url: str, statement: str, *params: object) -> Any:
    """Give the first column of the first row."""
    with connected(url) as connection:
        row = connection.execute(statement.encode(), params).fetchone()
        return None if row is None else row[0]


@contextmanager
def serving(
    *command: str, folder: Path, log: Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a web server of a Python module until the end; answer its process and its address."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: process.poll() is not None or address_in(log))
        assert process.poll() is None, log.read_text()
        yield process, address_in(log)
        if process.poll() is None:
            process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def address_in(log: Path) -> str:
    """Find where a server says that it listens."""
    found = re.search(r"(?:running on|Listening at:) (http://[\d.]+:\d+)", log.read_text())
    return found[1] if found else ""
