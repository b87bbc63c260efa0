"""Workers killed and stopped, and a database stopped and started, in the middle of deliveries."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soniq.db import _keeper
from soniq.db.embedded import EmbeddedServer

from .conftest import HeldMails, ask, connected, until

pytestmark = pytest.mark.timeout(110)

BLOCKED_BY = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
TERMINATE_BLOCKED_BY = BLOCKED_BY.replace("count(*)", "pg_terminate_backend(pid)")

both_twins = pytest.mark.parametrize("sync", [False, True], ids=["fastapi", "flask"])


def taken(running: Any) -> Counter[str]:
    return Counter(mail.message_id for mail in running.mails.inbox)


def test_a_worker_killed_before_it_hands_the_mail_over(stage: Callable[..., Any]) -> None:
    mails = HeldMails()
    with stage(mails=mails) as running:
        running.start_worker()
        running.start_web()
        user = running.sign_up("Ada")
        assert mails.wait(lambda: mails.held == 1, 30)
        running.worker.kill()
        assert mails.inbox == []
        mails.release()
        running.start_worker()
        job = running.eq.wait(user.job_id, timeout=30)
        running.stop()
        assert (job.status, job.attempt) == ("done", 2)
        assert [failed.outcome for failed in job.attempts] == ["worker_lost"]
        assert "died or fell silent" in job.attempts[0].error
        assert taken(running) == {user.message_id: 1}
        assert mails.inbox[0].attempt == 2


def test_a_worker_killed_after_the_user_is_marked(
    stage: Callable[..., Any], empty_database: str
) -> None:
    """The mail is out and the user marked; what gets lost is that the job is done.

    The job's row is locked, so its completion waits; there the worker is killed, and its waiting
    statement with it.
    """
    mails = HeldMails()
    with stage(mails=mails) as running, connected(empty_database) as locker:
        running.start_worker()
        running.start_web()
        user = running.sign_up("Ada")
        assert mails.wait(lambda: mails.held == 1, 30)
        with locker.transaction():
            locker.execute("SELECT FROM soniq.jobs WHERE id = %s FOR UPDATE", [user.job_id])
            me = locker.info.backend_pid
            mails.release()
            until(lambda: ask(empty_database, BLOCKED_BY, me))
            running.worker.kill()
            assert ask(empty_database, "SELECT count(*) FROM users WHERE welcomed_at < now()") == 1
            ask(empty_database, TERMINATE_BLOCKED_BY, me)
            until(lambda: not ask(empty_database, BLOCKED_BY, me))
        running.start_worker()
        job = running.eq.wait(user.job_id, timeout=30)
        running.stop()
        assert (job.status, job.attempt) == ("done", 2)
        assert [failed.outcome for failed in job.attempts] == ["worker_lost"]
        assert taken(running) == {user.message_id: 1}


@both_twins
def test_sigterm_in_the_middle_of_fifty_jobs_loses_none_and_counts_none_as_failed(
    stage: Callable[..., Any], empty_database: str, sync: bool
) -> None:
    mails = HeldMails(free=10)
    with stage(mails=mails, sync=sync) as running:
        running.start_web()
        users = [running.sign_up(f"User{number}") for number in range(50)]
        running.start_worker()
        assert mails.wait(lambda: mails.held == 2, 30)
        running.worker.terminate()
        running.worker.wait_for_line("SIGTERM", 10)
        mails.release()
        assert running.worker.wait(30) == 0
        assert len(mails.inbox) == 12
        assert ask(empty_database, "SELECT count(*) FROM soniq.jobs WHERE state = 'queued'") == 38
        running.start_worker()
        jobs = [running.eq.wait(user.job_id, timeout=30) for user in users]
        running.stop()
        assert {(job.status, job.attempt, len(job.attempts)) for job in jobs} == {("done", 1, 0)}
        assert taken(running) == {user.message_id: 1 for user in users}


@both_twins
def test_worker_and_web_go_on_by_themselves_when_postgresql_comes_back(
    stage: Callable[..., Any], private_folder: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    monkeypatch.setenv("SONIQ_POOL_TIMEOUT", "1")  # how long a visitor waits meanwhile
    with (
        EmbeddedServer(private_folder) as server,
        stage(database_url=server.url(), sync=sync, mails=HeldMails(free=1000)) as running,
    ):
        running.start_worker()
        running.start_web()
        before = running.sign_up("Ada")
        running.eq.wait(before.job_id, timeout=30)
        stop_server(private_folder)
        answer = running.http.post("/users", json={"name": "Brahma"})
        assert answer.status_code == 500
        server.heal()
        # The pool tries again at growing intervals, so the first visitors may come too early.
        until(lambda: running.http.post("/users", json={"name": "Chen"}).status_code == 201)
        until(lambda: len(running.mails.inbox) == 2)
        assert [mail.recipient for mail in running.mails.inbox] == [
            "ada@example.com",
            "chen@example.com",
        ]
        (job,) = running.eq.list_jobs(limit=1)
        job = running.eq.wait(job.id, timeout=30)
        assert (job.status, job.attempt) == ("done", 1)
        assert ask(server.url(), "SELECT count(*) FROM users") == 2
        running.stop()


def stop_server(home: Path) -> None:
    """Stop PostgreSQL as an operator does; its keeper does not start it again after that."""
    pid = _keeper.postmaster(os.path.realpath(home / "data"))
    assert pid is not None
    _keeper.stop_fast(pid)
    until(lambda: not _keeper.is_held(f"{home}/server.lock"))
    until(lambda: not _keeper.is_held(f"{home}/keeper.lock"))
