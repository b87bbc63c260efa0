"""Every command against a real database, as a person and as a program call it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from soniq import SoniqSync, TaskRef

from .conftest import PATIENCE, Shell, until

pytestmark = PATIENCE

ANSI = re.compile(r"\x1b\[")


def rows(text: str) -> list[dict[str, str]]:
    head, *lines = (line.split("\t") for line in text.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def enqueued(shell: Shell, *args: str) -> str:
    return shell("enqueue", *args).stdout.strip()


def shown(shell: Shell, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shell("jobs", "show", job_id, "--json").stdout)
    return found


def dead(shell: Shell, *values: str) -> list[str]:
    """Make dead letters, one for each value."""
    with SoniqSync(shell.env["SONIQ_DATABASE_URL"]) as client:
        once = TaskRef("app.boom").options(max_retries=0)
        made = client.enqueue_many(once, [{"x": int(value)} for value in values])
    shell("worker", "--burst")
    return made


# -- setup


def test_setup_makes_the_schema_once(empty_database: str, bare: Shell) -> None:
    first = bare("setup", "--database-url", empty_database).stdout
    assert "applied 0001_" in first
    assert "is ready" in first
    second = bare("setup", "--database-url", empty_database).stdout
    assert "applied" not in second
    assert "is up to date" in second


def test_setup_makes_the_database_of_the_application_in_the_folder(
    empty_database: str, bare: Shell
) -> None:
    """The recipe writes its URL into the application, and nowhere else."""
    url = psycopg.conninfo.make_conninfo(
        empty_database, dbname=f"{psycopg.conninfo.conninfo_to_dict(empty_database)['dbname']}_own"
    )
    bare.write(app=f"from soniq import Soniq\neq = Soniq(database_url={url!r})\n")
    try:
        assert "is ready" in bare("setup").stdout
        assert "up to date" in bare("setup", "--database-url", url).stdout
    finally:
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(empty_database, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


def test_ten_setups_at_once_all_succeed(empty_database: str, bare: Shell) -> None:
    processes = [bare.start("setup", "--database-url", empty_database) for _ in range(10)]
    assert [process.wait(120) for process in processes] == [0] * 10
    said = "".join(map(bare.said, processes))
    assert said.count("applied 0001_") == 1


def test_migrate_status_says_by_its_exit_code_whether_this_release_can_run(
    empty_database: str, bare: Shell
) -> None:
    url = ("--database-url", empty_database)
    before = bare("migrate-status", *url, code=1)
    assert {row["STATE"] for row in rows(before.stdout)} == {"pending"}
    assert "Run `soniq setup`" in before.stderr
    bare("setup", *url)
    after = bare("migrate-status", *url)
    assert {row["STATE"] for row in rows(after.stdout)} == {"applied"}
    document = json.loads(bare("migrate-status", "--json", *url).stdout)
    assert document["applied"][0].startswith("0001_")
    assert document["pending"] == document["newer"] == []


# -- enqueue


def test_values_are_json_where_they_are_json(shell: Shell) -> None:
    values = ["a=1", "b=true", "c=Ann", "d=[1,2]", 'e="01"', "f=007", "g=NaN", "h=", "i=x=y"]
    job_id = enqueued(shell, "far.away", "--unchecked", "--args", '{"z": {"y": null}}', *values)
    expected = {"z": {"y": None}, "a": 1, "b": True, "c": "Ann", "d": [1, 2], "e": "01"}
    expected |= {"f": "007", "g": "NaN", "h": "", "i": "x=y"}
    assert shown(shell, job_id)["args"] == expected


def test_options_of_the_job_are_kept(shell: Shell) -> None:
    job_id = enqueued(
        shell, "app.welcome", "user_id=1", "-Q", "vip", "--priority", "7", "--delay", "1.5h"
    )
    job = shown(shell, job_id)
    assert (job["queue"], job["priority"], job["status"]) == ("vip", 7, "scheduled")
    at = enqueued(shell, "app.welcome", "user_id=1", "--at", "2099-01-31T12:00:00+01:00")
    due = datetime.fromisoformat(shown(shell, at)["scheduled_at"])  # in the server's time zone
    assert due == datetime(2099, 1, 31, 11, tzinfo=UTC)


def test_the_module_may_be_left_out_of_a_tasks_name(shell: Shell) -> None:
    document = json.loads(shell("enqueue", "welcome", "user_id=1", "--json").stdout)
    assert document["task"] == "app.welcome"
    assert shown(shell, document["id"])["queue"] == "emails"


def test_an_argument_may_be_called_like_an_option(shell: Shell) -> None:
    job_id = enqueued(shell, "boom", "x=1", "queue=inside", "--queue", "outside")
    job = shown(shell, job_id)
    assert job["args"] == {"x": 1, "queue": "inside"}
    assert job["queue"] == "outside"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("welcom", "user_id=1"), "Did you mean welcome"),
        (("nothing",), "add --unchecked"),
        (("welcome", "usr_id=1"), "unexpected 'usr_id' (nearest: 'user_id')"),
        (("welcome", "user_id=1", "--priority", "2000"), "priority must be"),
        (("welcome", "user_id=1", "-Q", ""), "queue must be"),
        (("welcome", "user_id=1", "--delay", "1", "--at", "2099-01-01T00:00Z"), "not both"),
        (("x", "--unchecked", "--args", '{"a": "\\u0000"}'), "NUL"),
        (("welcome", "user_id=1", "--unique", "--dedup-key", "k"), "two things about one key"),
        (("welcome", "user_id=1", "--on-conflict", "skip"), "Give unique=True or dedup_key"),
    ],
)
def test_what_cannot_be_enqueued_is_told_and_not_written(
    shell: Shell, database: psycopg.Connection[Any], args: tuple[str, ...], said: str
) -> None:
    done = shell("enqueue", *args, code=2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert database.execute("SELECT count(*) FROM soniq.jobs").fetchone() == (0,)


def test_a_job_with_a_key_is_enqueued_once(shell: Shell) -> None:
    welcome = ("welcome", "user_id=1")
    first = enqueued(shell, *welcome, "--unique")
    assert enqueued(shell, *welcome, "--unique") == first
    assert enqueued(shell, *welcome, "--dedup-key", "k", "--unique-for", "1h") != first
    assert (
        f"Job {first} of app.welcome has the key."
        in at_terminal(shell, "enqueue", *welcome, "--unique", "--on-conflict", "replace")[1]
    )
    refused = shell("enqueue", *welcome, "--unique", "--on-conflict", "raise", code=2)
    assert f"Job {first} of app.welcome has these arguments already" in refused.stderr
    (shell.folder / "lines").write_text('{"user_id": 1}\n{"user_id": 2}\n{"user_id": 2}\n')
    assert enqueued(shell, "welcome", "--unique", "--from", "lines") == "1"
    refusing = ("--unique", "--on-conflict", "raise", "--from", "lines")
    assert "Job 0 of the list" in shell("enqueue", "welcome", *refusing, code=2).stderr


def test_the_option_moves_even_an_application_that_names_its_database(
    shell: Shell, database_url: str
) -> None:
    shell.env.pop("SONIQ_DATABASE_URL")
    shell.write(
        app="from soniq import Soniq\neq = Soniq('postgresql://127.0.0.1:1/nowhere')\n"
        "@eq.job\nasync def hello(): await eq.enqueue('app.after')\n"
        "@eq.job\nasync def after(): ...\n"
    )
    url = ("--database-url", database_url)
    job_id = enqueued(shell, "hello", *url)
    shell("worker", "--burst", *url)
    listed = rows(shell("jobs", "list", *url).stdout)
    assert {row["TASK"] for row in listed} == {"app.hello", "app.after"}
    assert next(row for row in listed if row["ID"] == job_id)["STATUS"] == "done"


# -- jobs


def test_jobs_are_listed_by_status_queue_task_and_page(shell: Shell) -> None:
    first = enqueued(shell, "welcome", "user_id=1")
    second = enqueued(shell, "boom", "x=1", "--delay", "1h")
    everything = rows(shell("jobs", "list").stdout)
    assert [row["ID"] for row in everything] == [second, first]
    for narrowed in (
        ["-s", "queued"],
        ["-Q", "emails"],
        ["-t", "app.welcome"],
        ["--before", second],
    ):
        assert [row["ID"] for row in rows(shell("jobs", "list", *narrowed).stdout)] == [first]
    assert [row["ID"] for row in rows(shell("jobs", "list", "-n", "1").stdout)] == [second]
    document = json.loads(shell("jobs", "list", "--json").stdout)
    assert [job["status"] for job in document] == ["scheduled", "queued"]


def test_a_job_is_shown_with_what_went_wrong(shell: Shell) -> None:
    (job_id,) = dead(shell, "1")
    said = shell("jobs", "show", job_id).stdout
    assert re.search(r"^status +dead_letter$", said, re.MULTILINE)
    assert "attempt 1: failed" in said
    assert "RuntimeError: no way:\\n1" in said
    assert 'raise RuntimeError(f"no way' in said


def test_a_job_is_deleted_unless_it_runs(shell: Shell, database: psycopg.Connection[Any]) -> None:
    job_id, running = (enqueued(shell, "welcome", "user_id=1") for _ in range(2))
    database.execute(
        "UPDATE soniq.jobs SET state = 'processing', attempt = 1, started_at = now(),"
        " worker_id = soniq.uuid7() WHERE id = %s",
        (running,),
    )
    done = shell("jobs", "delete", job_id, running, code=3)
    assert done.stdout == f"{job_id} deleted\n"
    assert done.stderr == f"soniq: Job {running} is processing. Cancel it, and delete it then.\n"
    assert "There is no job" in shell("jobs", "delete", job_id, code=3).stderr


def test_a_waiting_job_is_cancelled_and_an_ended_one_is_not(shell: Shell) -> None:
    job_id = enqueued(shell, "welcome", "user_id=1")
    assert shell("jobs", "cancel", job_id).stdout == f"{job_id} cancelled\n"
    assert shown(shell, job_id)["status"] == "cancelled"
    said = shell("jobs", "cancel", job_id, code=3).stderr
    assert said == f"soniq: Job {job_id} has ended (cancelled); there is nothing to cancel.\n"


def test_a_running_job_is_asked_to_stop(shell: Shell) -> None:
    shell.write(
        app="import anyio\nfrom soniq import Soniq\neq = Soniq()\n"
        "@eq.job\nasync def long(): await anyio.sleep(600)\n"
    )
    job_id = enqueued(shell, "long")
    worker = shell.worker()
    until(lambda: shown(shell, job_id)["status"] == "processing")
    assert "asked to stop" in shell("jobs", "cancel", job_id).stdout
    until(lambda: shown(shell, job_id)["status"] == "cancelled")
    assert shell.end(worker) == 0


def test_several_jobs_are_done_although_one_is_missing(shell: Shell) -> None:
    missing = "01900000-0000-7000-8000-000000000000"
    job_ids = [enqueued(shell, "welcome", f"user_id={n}") for n in range(2)]
    done = shell("jobs", "cancel", job_ids[0], missing, job_ids[1], code=3)
    assert done.stdout.count("cancelled") == 2
    assert f"There is no job {missing}" in done.stderr
    assert "is not a job id" in shell("jobs", "cancel", "x", code=2).stderr
    assert f"There is no job {missing}" in shell("jobs", "show", missing, code=3).stderr


def test_a_job_is_retried_now_or_again(shell: Shell) -> None:
    scheduled = enqueued(shell, "welcome", "user_id=1", "--delay", "1h")
    assert shell("jobs", "retry", scheduled).stdout == f"{scheduled} runs now\n"
    assert "already" in shell("jobs", "retry", scheduled, code=3).stderr
    shell("worker", "--burst")
    said = shell("jobs", "retry", scheduled).stdout
    assert said.startswith(f"{scheduled} runs again as ")
    assert shown(shell, said.split()[-1])["status"] == "queued"


# -- dead letters


def test_dead_letters_are_listed_shown_replayed_and_deleted(shell: Shell) -> None:
    one, two = dead(shell, "1", "2")
    listed = rows(shell("dead-letter", "list", "-Q", "default", "-t", "app.boom").stdout)
    assert [row["ID"] for row in listed] == [two, one]
    assert listed[0]["ERROR"] == "RuntimeError: no way:\\n2"
    assert listed[0]["REPLAYED"] == "-"
    assert "Traceback" in shell("dead-letter", "show", one).stdout
    new = shell("dead-letter", "replay", one).stdout.split()[-1]
    assert shown(shell, new)["status"] == "queued"
    document = json.loads(shell("dead-letter", "show", one, "--json").stdout)
    assert document["replayed_as"] == new
    assert shell("dead-letter", "delete", two).stdout == f"{two} deleted\n"
    assert f"no dead letter {two}" in shell("dead-letter", "delete", two, code=3).stderr
    assert f"no dead letter {two}" in shell("dead-letter", "replay", two, code=3).stderr
    assert [d["id"] for d in json.loads(shell("dead-letter", "list", "--json").stdout)] == [one]


def test_all_dead_letters_are_replayed_once(shell: Shell) -> None:
    dead(shell, "1", "2", "3")
    assert shell("dead-letter", "replay", "--all", "-Q", "none", "-y").stdout.startswith("0 dead")
    assert shell("dead-letter", "replay", "--all", "--yes").stdout == "3 dead letters replayed\n"
    assert shell("dead-letter", "replay", "--all", "--yes").stdout == "0 dead letters replayed\n"
    again = shell("dead-letter", "replay", "--all", "--again", "--yes").stdout
    assert again == "3 dead letters replayed\n"
    assert len(rows(shell("jobs", "list", "-s", "queued").stdout)) == 6


def test_a_bulk_asks_and_without_anybody_there_refuses(shell: Shell) -> None:
    dead(shell, "1")
    said = shell("dead-letter", "delete", "--all", code=2).stderr
    assert "Delete 1 dead letter? Nobody is here to ask: add --yes." in said
    code, said = at_terminal(shell, "dead-letter", "delete", "--all", typed="n\n")
    assert (code, "No dead letter deleted" in said) == (1, True)
    code, said = at_terminal(shell, "dead-letter", "delete", "--all", typed="y\n")
    assert (code, "1 dead letter deleted" in said) == (0, True)
    assert "100%" in said


# -- status


def test_status_counts_jobs_and_lists_workers(shell: Shell) -> None:
    enqueued(shell, "far.away", "--unchecked", "-Q", "far")
    worker = shell.worker("--queues", "emails,default", "--concurrency", "3")
    queues, workers = shell("status").stdout.split("\n\n")
    (far,) = rows(queues)
    assert (far["QUEUE"], far["QUEUED"], far["PAUSED"]) == ("far", "1", "no")
    (row,) = rows(workers)
    assert (row["STATE"], row["SLOTS"], row["QUEUES"]) == ("running", "3", "emails,default")
    document = json.loads(shell("status", "--json").stdout)
    assert document["workers"][0]["id"] == row["WORKER"]
    assert document["workers"][0]["silent"] is False
    assert document["queues"][0]["queued"] == 1
    assert shell.end(worker) == 0
    assert json.loads(shell("status", "--json").stdout)["workers"] == []


def test_status_tells_what_a_circuit_breaker_has_stopped(shell: Shell, database_url: str) -> None:
    assert json.loads(shell("status", "--json").stdout)["stopped"] == []
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO soniq.gates (task, breaker_failures, breaker_window, breaker_pause,"
            " breaker_by_key) VALUES ('charge', 3, 60, 60, true)"
        )
        connection.execute(
            "INSERT INTO soniq.gates (task, key, closed_until)"
            " VALUES ('charge', 'kacme', now() + interval '1 hour')"
        )
    *_, stopped = shell("status").stdout.split("\n\n")
    (row,) = rows(stopped)
    assert (row["STOPPED"], row["KEY"]) == ("charge", "acme")
    (told,) = json.loads(shell("status", "--json").stdout)["stopped"]
    assert 3000 < told["seconds"] <= 3600


def test_looking_needs_no_application(bare: Shell, database_url: str) -> None:
    for command in (("status",), ("jobs", "list"), ("dead-letter", "list"), ("migrate-status",)):
        bare(*command, SONIQ_DATABASE_URL=database_url)
        bare(*command, "--database-url", database_url)


# -- terminals and pipes


def at_terminal(shell: Shell, *args: str, typed: str = "", **env: str) -> tuple[int, str]:
    """Run a command at a terminal; answer its exit code and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "soniq", *args],
        cwd=shell.folder,
        env=shell.env | {"TERM": "xterm"} | env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # how Linux says that nobody is at the other end any more
        pass
    os.close(ours)
    return process.wait(30), said.decode()


def test_colour_is_for_terminals_unless_somebody_says_otherwise(shell: Shell) -> None:
    enqueued(shell, "welcome", "user_id=1")
    listing = ("jobs", "list")
    assert ANSI.search(at_terminal(shell, *listing)[1])
    assert not ANSI.search(at_terminal(shell, *listing, NO_COLOR="1")[1])
    assert not ANSI.search(at_terminal(shell, *listing, "--no-color")[1])
    assert ANSI.search(at_terminal(shell, *listing, "--color", NO_COLOR="1")[1])


def test_an_empty_list_is_a_sentence_at_a_terminal_and_a_heading_in_a_pipe(shell: Shell) -> None:
    for command, said in (("jobs", "There are no such jobs."), ("dead-letter", "no dead letters.")):
        assert at_terminal(shell, command, "list")[1].strip().endswith(said)
        assert shell(command, "list").stdout.startswith("ID\tTASK\tQUEUE\t")


def test_a_moment_is_told_to_the_nearest_whole_unit(shell: Shell) -> None:
    enqueued(shell, "welcome", "user_id=1", "--delay", "3d")
    assert "  in 3 d  " in at_terminal(shell, "jobs", "list")[1]


def test_nothing_in_a_pipe_is_coloured(shell: Shell) -> None:
    (job_id,) = dead(shell, "1")
    for command in (
        ("--help",),
        ("status",),
        ("jobs", "list"),
        ("jobs", "show", job_id),
        ("dead-letter", "list"),
        ("dead-letter", "show", job_id),
        ("worker", "--burst"),
        ("migrate-status",),
    ):
        done = shell(*command)
        assert not ANSI.search(done.stdout + done.stderr), command


def test_what_users_stored_cannot_steer_the_terminal(shell: Shell) -> None:
    job_id = enqueued(shell, "x\x1b[2J\ty", "--unchecked", 'a="\x07"')
    for args in (("jobs", "list"), ("jobs", "show", job_id)):
        for said in (shell(*args).stdout, at_terminal(shell, *args, "--no-color")[1]):
            assert "x\\x1b[2J\\ty" in said
            assert "\x1b[2J" not in said
            assert "\x07" not in said


def test_a_reader_who_leaves_early_is_no_fault(shell: Shell) -> None:
    for user in range(3):
        enqueued(shell, "welcome", f"user_id={user}")
    done = subprocess.run(
        f"'{sys.executable}' -m soniq jobs list | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=shell.folder,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.endswith("\n0\n")


def test_output_that_cannot_be_written_is_told(shell: Shell) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "soniq", "jobs", "list"],
            cwd=shell.folder,
            env=shell.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "soniq: [Errno 28] No space left on device\n"


def test_ctrl_c_ends_a_command_quietly(shell: Shell, database: psycopg.Connection[Any]) -> None:
    with database.transaction():
        database.execute("LOCK TABLE soniq.jobs IN ACCESS EXCLUSIVE MODE")
        process = shell.start("jobs", "list")
        waits = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        until(lambda: database.execute(waits.encode()).fetchone() != (0,))
        assert shell.end(process, signal.SIGINT) == 130
    assert shell.said(process).strip() == "soniq: interrupted"
