"""The command line as it is: processes, a folder with an application, a real database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[2]

# A test starts up to a dozen processes, and a busy machine takes seconds for each.
PATIENCE = pytest.mark.timeout(240)

APP = """
from soniq import Soniq
from soniq.job import JobContext

eq = Soniq()


@eq.job(queue="emails", max_retries=3, retry_delay=[5, 30, 300])
async def welcome(user_id: int, ctx: JobContext):
    return {"sent": user_id, "attempt": ctx.attempt}


@eq.job(max_retries=0)
def boom(x, queue="none"):
    raise RuntimeError(f"no way:\\n{x}")
"""


class Shell:
    """A working folder and an environment in which `soniq` is called."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error::ResourceWarning",
            "SONIQ_CONNECT_TIMEOUT": "2",
        }
        if url is not None:
            self.env["SONIQ_DATABASE_URL"] = url
        self.started: list[subprocess.Popen[str]] = []

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)

    def __call__(self, *args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and see that it ends with that code."""
        done = subprocess.run(
            [sys.executable, "-m", "soniq", *args],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start a command; its output goes to a file, `said(process)`."""
        log = self.folder / f"output-{len(self.started)}"
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "soniq", *args],
                cwd=self.folder,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        return (self.folder / f"output-{self.started.index(process)}").read_text()

    def worker(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start a worker and wait until it is ready."""
        process = self.start("worker", *args, **env)
        until(lambda: "is ready" in self.said(process) or process.poll() is not None)
        assert process.poll() is None, self.said(process)
        return process

    def end(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        process.send_signal(number)
        return process.wait(60)


def until(fact: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for a fact; answer it."""
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Iterator[Shell]:
    """A folder with the application in app.py, and a database with the schema."""
    made = Shell(tmp_path, database_url)
    made.write(app=APP)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    """An empty folder, and no database."""
    return Shell(tmp_path, None)
