"""`soniq worker --processes N`: real processes that die, are told to stop, or lose their parent."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from .conftest import PATIENCE, Shell, until
from .test_worker import count

pytestmark = PATIENCE

SLEEPY = """
import os
import time

import anyio

from soniq import Soniq

eq = Soniq()


@eq.job
async def nap(seconds: float):
    await anyio.sleep(seconds)


@eq.job
async def wait_for_go(seconds: float):
    while not os.path.exists("go"):
        await anyio.sleep(seconds)


@eq.job
def nap_in_thread(seconds: float):
    time.sleep(seconds)


@eq.job(max_retries=0)
async def leave(code: int):
    os._exit(code)
"""

QUICK = {"SONIQ_HEARTBEAT_INTERVAL": "0.3", "SONIQ_POLL_INTERVAL": "0.3"}
# Where the jobs of a dead worker are waited for. Elsewhere a short one would have workers that are
# kept from running by a busy machine taken for dead.
MORTAL = {"SONIQ_HEARTBEAT_TIMEOUT": "6"}


class Crew:
    """A supervisor and its workers, seen from outside."""

    def __init__(self, shell: Shell, *args: str, number: int = 3, **env: str) -> None:
        self.shell = shell
        self.process = shell.start("worker", "--processes", str(number), *args, **QUICK | env)
        until(lambda: f"all {number} workers are ready" in self.said or self.process.poll())
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.shell.said(self.process)

    @property
    def workers(self) -> list[int]:
        """The processes that live, by their parent."""
        return [pid for pid in children(self.process.pid) if alive(pid)]


@pytest.fixture
def sleepy(shell: Shell) -> Iterator[Shell]:
    shell.write(app=SLEEPY)
    yield shell
    for process in shell.started:  # before the fixture kills the parent, and loses sight of these
        for pid in children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def enqueue(database: psycopg.Connection[Any], task: str, number: int, seconds: float) -> None:
    database.execute(
        "INSERT INTO soniq.jobs (id, task, args) SELECT soniq.uuid7(), %s, "
        "jsonb_build_object('seconds', %s::float8) FROM generate_series(1, %s)",
        (f"app.{task}", seconds, number),
    )


def history(database: psycopg.Connection[Any]) -> list[tuple[str, int]]:
    return database.execute("SELECT state, attempt FROM soniq.history").fetchall()


def running(database: psycopg.Connection[Any], pid: int | None = None) -> int:
    """How many jobs run, at all or at the worker with this process id."""
    return count(
        database,
        "state = 'processing'"
        + (
            f" AND worker_id IN (SELECT id FROM soniq.workers WHERE name LIKE '%:{pid}')"
            if pid
            else ""
        ),
    )


def test_each_process_is_a_worker_and_names_itself_in_its_log(sleepy: Shell) -> None:
    crew = Crew(sleepy)
    workers = json.loads(sleepy("status", "--json").stdout)["workers"]
    assert {int(worker["name"].rpartition(":")[2]) for worker in workers} == set(crew.workers)
    assert {worker["state"] for worker in workers} == {"running"}
    assert sleepy.end(crew.process) == 0
    for number in (1, 2, 3):
        assert re.search(rf"INFO +\[worker {number}/3\] worker \S+ is ready", crew.said)
        assert re.search(rf"INFO +\[worker {number}/3\] worker \S+ stopped", crew.said)
    assert crew.said.splitlines()[-1].endswith("INFO    all workers have ended")


def test_the_log_in_json_names_the_process_in_a_field(sleepy: Shell) -> None:
    done = sleepy("worker", "--processes", "2", "--burst", SONIQ_LOG_FORMAT="json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line.get("process") for line in lines} == {None, "worker 1/2", "worker 2/2"}


def test_a_killed_worker_is_replaced_and_its_jobs_run_again(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    crew = Crew(sleepy, "--concurrency", "10", **MORTAL)
    enqueue(database, "nap", 60, 1.0)
    victim = until(lambda: next((pid for pid in crew.workers if running(database, pid)), None))
    held = running(database, victim)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(crew.workers) == 3 and victim not in crew.workers)
    assert "was killed by SIGKILL; another follows in 0.5 s" in crew.said
    until(lambda: not count(database, "true"))
    assert sleepy.end(crew.process) == 0
    ended = history(database)
    assert len(ended) == 60
    assert {state for state, _ in ended} == {"done"}
    again = [attempt for _, attempt in ended if attempt > 1]
    assert 1 <= len(again) <= held + 10
    assert set(again) == {2}


def test_sigterm_drains_every_worker(sleepy: Shell, database: psycopg.Connection[Any]) -> None:
    crew = Crew(sleepy, "--concurrency", "2")
    enqueue(database, "nap", 3, 1.5)
    enqueue(database, "nap_in_thread", 3, 1.5)
    enqueue(database, "nap", 20, 1.5)
    until(lambda: running(database) >= 6)
    workers = crew.workers
    assert sleepy.end(crew.process) == 0
    assert not any(alive(pid) for pid in workers)
    ended = history(database)
    assert len(ended) >= 6
    assert set(ended) == {("done", 1)}
    assert count(database, "state = 'queued' AND attempt = 0") == 26 - len(ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_every_process_at_once_counts_once(
    sleepy: Shell, database: psycopg.Connection[Any], number: signal.Signals
) -> None:
    """As a terminal and systemd do it; and a second one would cut the jobs short."""
    crew = Crew(sleepy)
    enqueue(database, "nap", 6, 3)
    until(lambda: running(database) == 6)
    for pid in [*crew.workers, crew.process.pid]:
        os.kill(pid, number)
    assert crew.process.wait(30) == 0
    assert history(database) == [("done", 1)] * 6


def test_a_second_signal_hurries_every_worker(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    crew = Crew(sleepy)
    enqueue(database, "nap", 6, 600)
    until(lambda: running(database) == 6)
    crew.process.send_signal(signal.SIGTERM)
    until(lambda: crew.said.count("told to stop") == 3)
    assert sleepy.end(crew.process) == 0
    assert count(database, "state = 'queued' AND attempt = 0 AND attempts IS NULL") == 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_workers_drain_when_their_supervisor_is_gone(
    sleepy: Shell, database: psycopg.Connection[Any], number: signal.Signals
) -> None:
    crew = Crew(sleepy)
    enqueue(database, "wait_for_go", 6, 0.05)
    until(lambda: running(database) == 6)
    workers = crew.workers
    assert sleepy.end(crew.process, number) == -number
    until(lambda: crew.said.count("the supervisor is gone: stopping") == 3)
    assert running(database) == 6  # all of them knew at once, and none by another's end
    (sleepy.folder / "go").touch()
    until(lambda: not any(alive(pid) for pid in workers))
    assert history(database) == [("done", 1)] * 6
    assert database.execute("SELECT count(*) FROM soniq.workers").fetchone() == (0,)


def test_one_worker_may_be_drained_and_another_takes_its_place(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    crew = Crew(sleepy)
    first = crew.workers[0]
    os.kill(first, signal.SIGTERM)
    until(lambda: len(crew.workers) == 3 and first not in crew.workers)
    assert "ended with exit code 0; another follows in 0 s" in crew.said
    until(lambda: crew.said.count("is ready") == 4)
    assert sleepy.end(crew.process) == 0


def test_a_worker_that_dies_again_and_again_is_replaced_more_and_more_slowly(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    crew = Crew(sleepy, number=2, SONIQ_LOG_LEVEL="DEBUG")
    for pause in ("0.5", "1", "2"):
        victim = worker_named(crew, 1)
        os.kill(victim, signal.SIGKILL)
        until(lambda pause=pause: f"SIGKILL; another follows in {pause} s" in crew.said)
        until(lambda victim=victim: worker_named(crew, 1) not in {0, victim})
    assert sleepy.end(crew.process) == 0


def worker_named(crew: Crew, number: int) -> int:
    """The process of that place that was started last, if it lives."""
    started = re.findall(rf"worker {number}/\d+ is process (\d+)", crew.said)
    pid = int(started[-1])
    return pid if alive(pid) else 0


def test_a_job_that_ends_its_process_is_lost_to_nobody_else(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    crew = Crew(sleepy, **MORTAL)
    sleepy("enqueue", "leave", "code=7")
    until(lambda: "ended with exit code 7; another follows" in crew.said)
    enqueue(database, "nap", 30, 0.01)
    until(lambda: not count(database, "true"))
    assert sleepy.end(crew.process) == 0
    assert history(database) == [("done", 1)] * 30
    letters = database.execute("SELECT task, attempt FROM soniq.dead_letters").fetchall()
    assert letters == [("app.leave", 1)]


def test_a_burst_ends_when_nothing_is_due_anywhere(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    enqueue(database, "nap", 200, 0.02)
    sleepy("worker", "--processes", "3", "--run-once", SONIQ_PROCESSES="2")
    assert history(database) == [("done", 1)] * 200


def test_a_burst_that_lost_a_worker_says_so_by_its_exit_code(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    sleepy("enqueue", "leave", "code=7")
    said = sleepy("worker", "--processes", "2", "--burst", code=7).stderr
    assert "ended with exit code 7; another follows in 0.5 s" in said


def test_a_worker_that_does_not_stop_is_killed_at_last(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    sleepy.write(sitecustomize="from soniq.cli import supervise\nsupervise.MARGIN_SECONDS = 0.5\n")
    crew = Crew(
        sleepy,
        PYTHONPATH=f"{sleepy.folder}:{sleepy.env['PYTHONPATH']}",
        SONIQ_SHUTDOWN_TIMEOUT="0.2",
        SONIQ_SYNC_GRACE="0.2",
    )
    frozen = crew.workers[1]
    os.kill(frozen, signal.SIGSTOP)
    assert sleepy.end(crew.process) == 1
    assert f"(process {frozen}) does not stop, and is killed" in crew.said
    assert not alive(frozen)


def test_a_worker_that_could_not_be_forked_is_tried_again(sleepy: Shell) -> None:
    """The system had no process to spare for a moment, as it says by EAGAIN."""
    sleepy.write(
        sitecustomize="""
import errno, os

fork, calls = os.fork, []

def busy():
    calls.append(1)
    if len(calls) in {2, 3}:
        raise BlockingIOError(errno.EAGAIN, "no process to spare")
    return fork()

os.fork = busy
"""
    )
    crew = Crew(sleepy, number=2, PYTHONPATH=f"{sleepy.folder}:{sleepy.env['PYTHONPATH']}")
    pauses = re.findall(
        r"worker 2/2 cannot start \(.*no process to spare\); again in (\S+) s", crew.said
    )
    assert pauses == ["0.5", "1"]
    assert len(crew.workers) == 2
    assert "ResourceWarning" not in crew.said  # both ends of its line are closed
    assert sleepy.end(crew.process) == 0


def test_a_fault_of_the_set_up_is_said_and_ends_everything(
    sleepy: Shell, database: psycopg.Connection[Any]
) -> None:
    database.execute("DROP SCHEMA soniq CASCADE")
    said = sleepy("worker", "--processes", "2", code=1).stderr
    assert "soniq setup" in said
    assert "ended with exit code 1 before it was ready, and so would the next" in said
    assert "follows" not in said


def test_a_module_that_cannot_be_imported_is_told_once(shell: Shell) -> None:
    shell.write(app="import nowhere\nfrom soniq import Soniq\neq = Soniq()\n")
    said = shell("worker", "--processes", "4", code=1).stderr
    assert said.count("nowhere") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("given", "said"),
    [("0", "between 1 and 1000"), ("1001", "between 1 and 1000"), ("-2", "between 1 and 1000")],
)
def test_a_number_that_cannot_be_is_refused(shell: Shell, given: str, said: str) -> None:
    assert said in shell("worker", f"--processes={given}", code=1).stderr
    assert said in shell("worker", SONIQ_PROCESSES=given, code=1).stderr


def test_the_number_may_come_from_the_environment(shell: Shell) -> None:
    said = shell("worker", "--burst", SONIQ_PROCESSES="2").stderr
    assert "starts 2 workers" in said
    alone = shell("worker", "--burst", "--processes", "1", SONIQ_PROCESSES="2").stderr
    assert "supervisor" not in alone


def test_threads_that_the_application_started_are_warned_of(shell: Shell) -> None:
    text = (shell.folder / "app.py").read_text()
    shell.write(
        app=f"{text}\nimport threading\n"
        "threading.Thread(target=threading.Event().wait, name='mine', daemon=True).start()\n"
    )
    said = shell("worker", "--processes", "2", "--burst").stderr
    assert "started threads (mine)" in said


def test_an_embedded_server_serves_all_of_them(bare: Shell) -> None:
    folder = Path(tempfile.mkdtemp(prefix="soniq-crew-"))
    folder.chmod(0o755)
    try:
        bare.env["SONIQ_EMBEDDED_DIR"] = f"{folder}/pg"
        bare.write(app=SLEEPY)
        crew = Crew(bare, number=2)
        job_id = bare("enqueue", "nap", "seconds=0.01").stdout.strip()
        until(lambda: '"done"' in bare("jobs", "show", job_id, "--json").stdout)
        assert bare.end(crew.process) == 0
        until(lambda: not any(folder.rglob("postmaster.pid")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
