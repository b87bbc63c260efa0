"""Jobs in processes of their own: what comes back, what is killed, and who dies with whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from soniq import Soniq
from soniq.errors import InvalidOption
from soniq.events import JobStarted
from soniq.job.record import Job, JobStatus

from . import apart, apart_hooks
from .conftest import Ask, Seen, ended, eventually, run_once, working

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def app(anyio_backend: Any, database_url: str) -> AsyncIterator[Soniq]:
    apart.app._app.move_to(database_url)
    yield apart.app
    await apart.app.close()


async def outcome(app: Soniq, target: Any, /, seconds: float = 20, **args: Any) -> Job:
    """Run one job, whatever is due, and give its record."""
    job_id = await app.enqueue(target, **args)
    await run_once(app)
    return await ended(app, job_id, seconds)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def noted(path: Path) -> list[int]:
    async def there() -> list[int]:
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    return await eventually(there, 20)


async def gone(pids: list[int]) -> None:
    async def all_gone() -> bool:
        return not any(alive(pid) for pid in pids)

    await eventually(all_gone)


# -- what comes back


async def test_a_handler_runs_elsewhere_and_its_result_comes_back(app: Soniq) -> None:
    ids = [await app.enqueue(task, a=2, b=3) for task in (apart.add, apart.add_on_loop)]
    worker = await run_once(app)
    for job_id in ids:
        job = await app.get_job(job_id)
        assert (job.status, job.attempts) == (JobStatus.DONE, ())
        assert job.result | {"pid": 0} == {"sum": 5, "attempt": 1, "worker": worker.id, "pid": 0}
        assert job.result["pid"] != os.getpid()


@ON_ASYNCIO
async def test_tasks_of_a_sync_client_do_too(anyio_backend: Any, database_url: str) -> None:
    apart.sync_app._app.move_to(database_url)
    job_id = await to_thread.run_sync(lambda: apart.add_sync.enqueue(a=2, b=3))
    await to_thread.run_sync(lambda: apart.sync_app.run_worker(run_once=True))
    job = await to_thread.run_sync(apart.sync_app.get_job, job_id)
    assert (job.status, job.result) == (JobStatus.DONE, 5)
    await to_thread.run_sync(apart.sync_app.close)


@ON_ASYNCIO
async def test_a_process_is_kept_for_the_next_job_until_it_ran_so_many(app: Soniq) -> None:
    ids = [await app.enqueue(apart.add, a=n, b=0) for n in range(5)]
    await run_once(app, job_processes=1, process_max_jobs=2)
    ran_in = [(await app.get_job(job_id)).result["pid"] for job_id in ids]
    assert ran_in[0] == ran_in[1]
    assert ran_in[2] == ran_in[3]
    assert len(set(ran_in)) == 3
    assert not any(alive(pid) for pid in ran_in)


@ON_ASYNCIO
@pytest.mark.parametrize("size", [10, 900_000])
async def test_neither_size_nor_prints_get_in_the_way(app: Soniq, size: int) -> None:
    job = await outcome(app, apart.echo, text="x" * size)
    assert job.result == "x" * size


@ON_ASYNCIO
async def test_a_handler_may_run_a_loop_of_its_own(app: Soniq) -> None:
    assert (await outcome(app, apart.own_loop)).result == "inside"


@ON_ASYNCIO
async def test_a_result_that_cannot_be_kept_fails_the_attempt(app: Soniq) -> None:
    job = await outcome(app, apart.unwritable)
    assert job.status is JobStatus.DEAD_LETTER
    assert "unwritable returned what cannot be kept" in (job.last_error or "")


# -- errors


@ON_ASYNCIO
@pytest.mark.parametrize("task", [apart.fail, apart.fail_on_loop], ids=["def", "async"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("ValueError", "ValueError: no\\0 way"),
        ("OddError", "OddError: seven is 7"),
        ("MutedError", "MutedError: said nothing"),
        ("SystemExit", "SystemExit: 3"),
        ("KeyboardInterrupt", "KeyboardInterrupt: x"),
        ("GeneratorExit", "GeneratorExit"),
        ("StopIteration", "StopIteration"),
        ("CancelledError", "CancelledError: mine"),
    ],
)
async def test_an_error_comes_back_with_its_type_message_and_traceback(
    app: Soniq, task: Any, kind: str, said: str
) -> None:
    job_id = await app.enqueue(task.options(max_retries=1), kind=kind)
    fine = await app.enqueue(apart.add, a=1, b=1)
    await run_once(app, job_processes=1)
    job = await ended(app, job_id)
    assert job.status is JobStatus.DEAD_LETTER
    assert said in (job.last_error or "")
    first = job.attempts[0]
    assert (first.attempt, first.outcome) == (1, "failed")
    assert f"{Path(apart.__file__).name}" in (first.traceback or "")
    assert "in fail\n" in (first.traceback or "")
    if kind not in {"GeneratorExit", "StopIteration"}:  # coroutines wrap them
        assert "soniq/worker" not in (first.traceback or "")
    # Its class is the one that the task's options name.
    discarded = kind == "OddError" and task is apart.fail
    assert job.attempt == (1 if discarded else 2)
    assert (await app.get_job(fine)).status is JobStatus.DONE


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("kind", "status", "attempt"),
    [
        ("snooze", JobStatus.DONE, 1),
        ("retry", JobStatus.DONE, 2),
        ("cancel", JobStatus.CANCELLED, 1),
        ("discard", JobStatus.DEAD_LETTER, 1),
    ],
)
async def test_what_a_handler_asks_for_is_done(
    app: Soniq, kind: str, status: JobStatus, attempt: int
) -> None:
    job_id = await app.enqueue(apart.signal_by, kind=kind)
    async with working(app, poll_interval=0.1):
        job = await ended(app, job_id, 20)
    assert (job.status, job.attempt) == (status, attempt)


# -- death


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "ended with exit code 7"),
        ("kill", "was killed by SIGKILL (the system's memory may be used up)"),
        ("fault", "was killed by SIGSEGV"),
    ],
)
async def test_a_process_that_dies_fails_its_own_attempt_and_no_other(
    app: Soniq, how: str, said: str
) -> None:
    nap = await app.enqueue(apart.nap, seconds=1.0)
    job_id = await app.enqueue(apart.die.options(max_retries=1), how=how)
    others = [await app.enqueue(task, a=1, b=2) for task in (apart.add, apart.add_on_loop)]
    here = await app.enqueue(apart.beside)
    async with working(app, job_processes=2):
        job = await ended(app, job_id, 30)
        assert (job.status, job.attempt) == (JobStatus.DEAD_LETTER, 2)
        assert f"ProcessLost: The process that ran the attempt {said}" in (job.last_error or "")
        records = [await ended(app, other, 30) for other in [nap, *others, here]]
    for record in records:
        assert (record.status, record.attempt) == (JobStatus.DONE, 1)
    assert record.result == os.getpid()


@pytest.mark.parametrize("task", [apart.spin, apart.block], ids=["def", "async"])
async def test_at_its_timeout_a_process_is_killed_with_all_it_started(
    app: Soniq, tmp_path: Path, task: Any
) -> None:
    job_id = await app.enqueue(task.options(timeout=1), note=str(tmp_path / "note"))
    async with working(app):
        pids = await noted(tmp_path / "note")
        job = await ended(app, job_id)
        await gone(pids)
    assert (job.status, job.attempts[0].outcome) == (JobStatus.DEAD_LETTER, "timed_out")
    assert job.last_error == "JobTimeout: The attempt took longer than its timeout of 1 s."


@ON_ASYNCIO
async def test_the_time_to_wait_for_a_process_is_not_the_attempts(app: Soniq) -> None:
    naps = [await app.enqueue(apart.nap.options(timeout=0.9), seconds=0.5) for _ in range(3)]
    await run_once(app, job_processes=1)
    for job_id in naps:
        assert (await app.get_job(job_id)).status is JobStatus.DONE


@ON_ASYNCIO
async def test_a_cancelled_job_is_killed(app: Soniq, tmp_path: Path) -> None:
    job_id = await app.enqueue(apart.spin, note=str(tmp_path / "note"))
    async with working(app):
        pids = await noted(tmp_path / "note")
        assert await app.cancel_job(job_id)
        assert (await ended(app, job_id)).status is JobStatus.CANCELLED
        await gone(pids)


async def test_a_stopping_worker_lets_jobs_end_and_kills_them_when_its_patience_is_over(
    app: Soniq, tmp_path: Path, ask: Ask
) -> None:
    quick = await app.enqueue(apart.nap, seconds=0.5)
    endless = await app.enqueue(apart.spin, note=str(tmp_path / "note"))
    async with working(app, job_processes=2, shutdown_timeout=2.0) as hand:
        pids = await noted(tmp_path / "note")
        assert await hand.stop() == 0
    await gone(pids)
    assert (await app.get_job(quick)).status is JobStatus.DONE
    job = await app.get_job(endless)
    assert (job.status, job.attempt, job.attempts) == (JobStatus.QUEUED, 0, ())


@ON_ASYNCIO
async def test_a_job_that_waits_for_a_process_when_its_worker_drains_goes_back(
    app: Soniq, tmp_path: Path
) -> None:
    note = str(tmp_path / "note")
    first = await app.enqueue(apart.nap_noted, seconds=1.0, note=note)
    second = await app.enqueue(apart.nap_noted, seconds=1.0, note=note)
    seen = Seen(app)
    async with working(app, job_processes=1) as hand:
        await seen.some(2, JobStarted)
        await noted(tmp_path / "note")
        assert await hand.stop() == 0
    jobs = [await app.get_job(job_id) for job_id in (first, second)]
    assert [(job.status, job.attempt) for job in jobs] == [
        (JobStatus.DONE, 1),
        (JobStatus.QUEUED, 0),
    ]


@ON_ASYNCIO
@pytest.mark.parametrize("task", [apart.fork, apart.fork_on_loop], ids=["def", "async"])
@pytest.mark.parametrize(("leave", "code"), [("exit", 5), ("error", 1), ("return", 0)])
async def test_what_a_handler_forks_does_not_answer_for_the_job(
    app: Soniq, task: Any, leave: str, code: int
) -> None:
    """A fork that came to the end of its handler too sent an answer of its own.

    The worker took it for that of the next job, and hung, or had jobs done that never ran.
    """
    ids = [await app.enqueue(task, leave=leave), await app.enqueue(apart.add, a=2, b=3)]
    with anyio.fail_after(30):
        await run_once(app, job_processes=1)
    forked, added = [(await app.get_job(job_id)).result for job_id in ids]
    assert forked == [added["pid"], code]
    assert added["sum"] == 5


@pytest.mark.parametrize(
    "anyio_backend", ["asyncio", "trio", ("asyncio", {"use_uvloop": True})], ids=str
)
async def test_a_death_is_seen_and_ends_what_the_handler_forked(app: Soniq, tmp_path: Path) -> None:
    """The fork held the pipe open, so the worker waited for an answer until the job's timeout."""
    note = tmp_path / "note"
    with anyio.fail_after(30):
        job = await outcome(app, apart.die_beside_a_fork, note=str(note))
    assert "ended with exit code 7" in (job.last_error or "")
    await gone(await noted(note))


@ON_ASYNCIO
async def test_a_signal_without_a_name_is_told_by_its_number(app: Soniq) -> None:
    number = signal.SIGRTMIN + 6
    job = await outcome(app, apart.kill_by, number=number)
    assert f"was killed by signal {number}" in (job.last_error or "")


async def test_a_process_that_died_while_it_was_idle_costs_no_attempt(app: Soniq) -> None:
    async with working(app):
        first = await ended(app, await app.enqueue(apart.add, a=1, b=1), 20)
        os.kill(first.result["pid"], signal.SIGKILL)
        await gone([first.result["pid"]])
        second = await ended(app, await app.enqueue(apart.add, a=1, b=1), 20)
    assert (second.status, second.attempt, second.attempts) == (JobStatus.DONE, 1, ())
    assert second.result["pid"] != first.result["pid"]


@ON_ASYNCIO
async def test_more_memory_than_allowed_is_an_error_and_costs_the_process(app: Soniq) -> None:
    before = await app.enqueue(apart.add, a=0, b=0)
    large = await app.enqueue(apart.hoard.options(max_retries=0), mebibytes=400)
    small = await app.enqueue(apart.hoard, mebibytes=20)
    after = await app.enqueue(apart.add, a=0, b=0)
    await run_once(app, job_processes=1, process_memory_limit=200)
    job = await app.get_job(large)
    assert (job.status, job.last_error) == (JobStatus.DEAD_LETTER, "MemoryError")
    assert (await app.get_job(small)).result == 20 << 20
    pids = [(await app.get_job(each)).result["pid"] for each in (before, after)]
    assert len(set(pids)) == 2


@ON_ASYNCIO
async def test_processes_die_with_their_worker(app: Soniq, tmp_path: Path) -> None:
    await app.enqueue(apart.spin, note=str(tmp_path / "note"))
    await app.enqueue(apart.add, a=1, b=1)
    command = [sys.executable, "-m", "soniq", "worker", "worker.apart:app"]
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
        "SONIQ_DATABASE_URL": "",
    }
    command += ["--database-url", app.settings.database_url or ""]
    victim = await anyio.open_process(command, env=env, cwd=ROOT, stdout=None, stderr=None)
    pids = await noted(tmp_path / "note")
    assert all(alive(pid) for pid in pids)
    victim.kill()
    await victim.wait()
    await gone(pids)
    await victim.aclose()


# -- around the handler


@pytest.mark.parametrize("task", [apart.write, apart.write_on_loop], ids=["def", "async"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_handler_may_end_its_job_in_its_own_transaction(
    app: Soniq, ask: Ask, task: Any, fails: bool
) -> None:
    await ask("DROP TABLE IF EXISTS notebook; CREATE TABLE notebook (n int)")
    job = await outcome(app, task, fails=fails)
    assert (job.status, job.attempt, job.attempts) == (JobStatus.DONE, 1, ())
    assert await ask("SELECT count(*) FROM notebook") == [(1,)]


@ON_ASYNCIO
@pytest.mark.parametrize("task", [apart_hooks.work, apart_hooks.work_on_loop], ids=["def", "async"])
async def test_hooks_and_middleware_run_beside_the_handler(
    anyio_backend: Any, database_url: str, tmp_path: Path, task: Any
) -> None:
    app = apart_hooks.app
    app._app.move_to(database_url)
    path = tmp_path / "notes"

    async def notes_of(seconds: float, timeout: float) -> tuple[Job, list[str], set[int]]:
        path.unlink(missing_ok=True)
        job_id = await app.enqueue(task.options(tags=[str(path)], timeout=timeout), seconds=seconds)
        await run_once(app)
        lines = [line.rsplit(" ", 1) for line in path.read_text().splitlines()]
        return (
            await app.get_job(job_id),
            sorted(what for what, _ in lines),
            {int(pid) for what, pid in lines if what != "on_error:JobTimeout"},
        )

    job, notes, pids = await notes_of(0, 60)
    assert (job.status, job.result) == (JobStatus.DONE, "<worked>")
    # As around a thread: the `async def` middleware is outside of a `def` hook.
    told = "<worked>" if task.is_async else "worked"
    assert notes == [f"after:{told}", "before", "before_on_loop"]
    assert len(pids) == 1
    assert os.getpid() not in pids
    job, notes, pids = await notes_of(-1, 60)
    assert job.last_error == "ValueError: no"
    assert notes == ["before", "before_on_loop", "on_error:ValueError"]
    assert os.getpid() not in pids
    # The process is gone by then, so the worker calls these.
    job, notes, _ = await notes_of(600, 0.5)
    assert job.attempts[0].outcome == "timed_out"
    assert notes == ["before", "before_on_loop", "on_error:JobTimeout"]
    assert path.read_text().splitlines()[-1] == f"on_error:JobTimeout {os.getpid()}"
    await app.close()


# -- finding the task


async def test_a_function_within_a_function_is_refused_when_it_is_declared(app: Soniq) -> None:
    with pytest.raises(InvalidOption, match=r"<locals>.inner is made within one"):

        @app.job(executor="process")
        def inner() -> None: ...

    with pytest.raises(InvalidOption, match="Declare it at the top"):
        app.job("nameless", executor="process")(lambda: None)


@ON_ASYNCIO
async def test_a_task_that_a_new_process_does_not_find_fails_and_says_why(app: Soniq) -> None:
    apart.declare_late()
    job = await outcome(app, "lost")
    assert job.status is JobStatus.DEAD_LETTER
    said = job.last_error or ""
    assert "UnknownTask: A new process that imports worker.apart knows no task named 'lost'" in said
    assert "Declare it when its module is imported" in said


SCRIPT = """
from soniq import SoniqSync

eq = SoniqSync()


@eq.job(executor="process", max_retries=0)
def where() -> str:
    return __name__


if __name__ == "__main__":
    job_id = where.enqueue()
{guard}
    eq.run_worker(run_once=True)
    job = eq.get_job(job_id)
    print(job.status, job.result, job.last_error)
    eq.close()
"""


@ON_ASYNCIO
@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ("if __name__ == '__main__':", "done script None"),
        ("if True:", "Put its start under `if __name__ == '__main__':`"),
    ],
)
async def test_a_script_may_run_a_worker_if_importing_it_does_not(
    anyio_backend: Any, database_url: str, tmp_path: Path, guard: str, said: str
) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT.format(guard=guard)))
    env = os.environ | {"PYTHONPATH": str(ROOT), "SONIQ_DATABASE_URL": database_url}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = await to_thread.run_sync(run)
    assert said in done.stdout, done.stdout + done.stderr


@ON_ASYNCIO
async def test_started_is_told_once_for_each_attempt(app: Soniq) -> None:
    seen = Seen(app)
    job = await outcome(app, apart.add, a=1, b=1)
    assert [event.job_id for event in seen.of(JobStarted)] == [job.id]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
