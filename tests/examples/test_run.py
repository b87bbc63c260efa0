"""The runner from start to end, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .conftest import EXAMPLE, ROOT, ask, connected, run

pytestmark = pytest.mark.timeout(110)
RUNNER = str(EXAMPLE / "run.py")
ENDED_WELL = "10 users, 10 mails, each arrived once; every job is done."


def told(text: str, what: str) -> Counter[str]:
    return Counter(re.findall(rf"^  {what} +(\S+@example.com) ", text, re.MULTILINE))


@pytest.mark.parametrize("twin", [[], ["--sync"]], ids=["fastapi", "flask"])
def test_ten_people_sign_up_and_ten_mails_arrive_once_each(
    twin: list[str], empty_database: str
) -> None:
    done = run("-W", "error", RUNNER, *twin, SONIQ_DATABASE_URL=empty_database)
    assert ENDED_WELL in done.stdout
    assert done.stderr == ""
    assert set(told(done.stdout, "refused").values()) == {1}
    arrived = told(done.stdout, "arrived")
    assert len(arrived) == 10
    assert set(arrived.values()) == {1}
    with connected(empty_database) as connection:
        jobs = connection.execute(
            "SELECT state, attempt, attempts->0->>'outcome', attempts->0->>'error'"
            " FROM soniq.history"
        ).fetchall()
    assert [job[:3] for job in jobs] == [("done", 2, "failed")] * 10
    assert all("451" in job[3] for job in jobs)
    assert ask(empty_database, "SELECT count(*) FROM users WHERE welcomed_at IS NOT NULL") == 10
    assert ask(empty_database, "SELECT count(*) FROM soniq.workers") == 0


def test_no_database_is_needed(private_folder: Path, tmp_path: Path) -> None:
    done = run(RUNNER, folder=tmp_path, SONIQ_EMBEDDED_DIR=str(private_folder))
    assert ENDED_WELL in done.stdout
    assert f"Embedded PostgreSQL 18 started in {private_folder}" in done.stdout


def test_a_users_table_of_somebody_else_is_left_alone(empty_database: str) -> None:
    with connected(empty_database) as connection:
        connection.execute("CREATE TABLE users (id int, name text)")
    done = run(RUNNER, code=1, SONIQ_DATABASE_URL=empty_database)
    assert "a table `users` that is not this example's" in done.stderr
    assert "Traceback" not in done.stderr
    assert ask(empty_database, "SELECT count(*) FROM users") == 0


def test_a_database_that_is_not_there_is_said_in_a_line() -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    done = run(RUNNER, code=1, SONIQ_DATABASE_URL=url)
    assert done.stderr.startswith("\nThe example failed: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_web_that_does_not_start_is_said_with_its_last_words(empty_database: str) -> None:
    broken = f"""
import sys
sys.path.insert(0, {str(EXAMPLE)!r})
import run, stage
class Broken(stage.Stage):
    def start_web(self):
        self.web = self._start("The web", "uvicorn", "no_such_module:app", "--port", "0")
        self.web.wait_for_line("running on", 20)
stage.Stage = Broken
sys.argv = ["run.py"]
sys.exit(run.main())
"""
    done = run("-c", broken, code=1, SONIQ_DATABASE_URL=empty_database)
    assert "The example failed: The web ended before it was ready." in done.stderr
    assert "no_such_module" in done.stderr


def test_ctrl_c_ends_everything(empty_database: str) -> None:
    process = subprocess.Popen(
        [sys.executable, RUNNER],
        cwd=ROOT,
        env={**os.environ, "SONIQ_DATABASE_URL": empty_database},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert any("refused" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 130, said + errors
    assert errors == "\nStopped.\n"
    assert ask(empty_database, "SELECT count(*) FROM soniq.workers") == 0
