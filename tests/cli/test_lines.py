"""`soniq enqueue --from`: a job for each line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from .conftest import PATIENCE, Shell
from .test_commands import at_terminal, rows, shown

pytestmark = PATIENCE


def write_lines(shell: Shell, *lines: str) -> str:
    path = shell.folder / "jobs.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def queued(database: psycopg.Connection[Any]) -> int:
    row = database.execute("SELECT count(*) FROM soniq.jobs").fetchone()
    assert row is not None
    return int(row[0])


def test_a_job_for_each_line_of_a_file(shell: Shell, database: psycopg.Connection[Any]) -> None:
    path = write_lines(shell, "\ufeff" + '{"user_id": 1}', "", '{"user_id": "ü"}', "")
    assert shell("enqueue", "welcome", "--from", path, "--delay", "1h").stdout == "2\n"
    listed = rows(shell("jobs", "list").stdout)
    assert [(row["QUEUE"], row["STATUS"]) for row in listed] == [("emails", "scheduled")] * 2
    assert shown(shell, listed[0]["ID"])["args"] == {"user_id": "ü"}
    args = ("--unchecked", "--json", "--commit-every", "1")
    document = json.loads(shell("enqueue", "far.away", "--from", path, *args).stdout)
    assert document == {"enqueued": 2, "task": "far.away"}
    assert queued(database) == 4


def test_a_job_for_each_line_of_standard_input(shell: Shell) -> None:
    command = [sys.executable, "-m", "soniq", "enqueue", "welcome", "--from", "-"]
    piped = '{"user_id": 1}\n' * 700
    answer = subprocess.run(
        command,
        cwd=shell.folder,
        env=shell.env,
        input=piped,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "700\n", "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"usr_id": 1}', "unexpected 'usr_id' (nearest: 'user_id')"),
        ("{", "this is not JSON"),
        ("[1]", "arguments go by name"),
        ('{"user_id": "\\u0000"}', "NUL"),
    ],
)
def test_a_bad_line_is_named_and_what_was_stored_too(
    shell: Shell, database: psycopg.Connection[Any], line: str, said: str
) -> None:
    path = write_lines(shell, *['{"user_id": 1}'] * 4, "", line, '{"user_id": 1}')
    done = shell("enqueue", "welcome", "--from", path, code=2)
    assert done.stderr.startswith("soniq: Line 6: ")
    assert said in done.stderr
    assert done.stderr.endswith(" Nothing was stored.\n")
    assert queued(database) == 0
    done = shell("enqueue", "welcome", "--from", path, "--commit-every", "3", code=2)
    assert done.stderr.startswith("soniq: Line 6: ")
    assert done.stderr.endswith(" The 3 jobs of the lines up to 3 were stored.\n")
    assert queued(database) == 3


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    """A file that is no JSON lines at all was read whole, however large."""
    path = write_lines(shell, '{"user_id": 1}', "", " " * 50_000_000 + '{"user_id": 2}')
    done = shell("enqueue", "welcome", "--from", path, code=2, SONIQ_MAX_PAYLOAD_BYTES="2000")
    assert done.stderr.startswith("soniq: Line 3: it is longer than 7,024 bytes;")
    assert done.stderr.endswith(" Nothing was stored.\n")
    assert queued(database) == 0


def test_a_line_of_escapes_may_be_longer_than_what_it_stands_for(
    shell: Shell, database: psycopg.Connection[Any]
) -> None:
    escaped = json.dumps({"user_id": "ü" * 950})
    assert len(escaped) > 5000
    path = write_lines(shell, escaped)
    shell("enqueue", "welcome", "--from", path, SONIQ_MAX_PAYLOAD_BYTES="2000")
    assert queued(database) == 1


def test_a_standard_input_that_is_closed_is_said(shell: Shell) -> None:
    """`--from - <&-` ended in a traceback, and in words that it was not foreseen."""
    command = ["sh", "-c", '"$0" -m soniq enqueue welcome --from - <&-', sys.executable]
    done = subprocess.run(
        command, cwd=shell.folder, env=shell.env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "soniq: Invalid value for '--from': standard input is closed" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_person_sees_how_far_a_file_is_enqueued(shell: Shell) -> None:
    path = write_lines(shell, *['{"user_id": 1}'] * 5000)
    code, said = at_terminal(shell, "enqueue", "welcome", "--from", path)
    assert code == 0
    assert re.search(r"Enqueueing .*100%", said)
    assert "Enqueued app.welcome 5000 times." in said
