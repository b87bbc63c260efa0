"""`soniq queues`, as a person and as a program call it."""

from __future__ import annotations

import json
from typing import Any

from .conftest import PATIENCE, Shell
from .test_commands import ANSI, at_terminal, enqueued, rows, shown

pytestmark = PATIENCE


def document(shell: Shell, *args: str) -> Any:
    return json.loads(shell("queues", *args, "--json").stdout)


def test_queues_are_listed_and_shown(shell: Shell) -> None:
    enqueued(shell, "app.welcome", "user_id=1")
    shell("queues", "limit", "emails", "--concurrency", "5", "--rate-limit", "100/minute")
    (row,) = rows(shell("queues", "list").stdout)
    assert (row["QUEUE"], row["QUEUED"], row["WORKERS"]) == ("emails", "1", "0")
    assert (row["PAUSED"], row["LIMITS"]) == ("no", "5 at once, 100/minute")
    assert rows(shell("status").stdout.split("\n\n")[0])[0]["LIMITS"] == row["LIMITS"]
    (told,) = document(shell, "list")
    assert (told["concurrency"], told["rate_limit"]) == (5, "100/minute")
    shown_one = document(shell, "show", "emails")
    assert (shown_one["queued"], shown_one["rate_limit"]) == (1, "100/minute")
    assert "5 at once" in shell("queues", "show", "emails").stdout
    code, screen = at_terminal(shell, "queues", "list", NO_COLOR="1")
    assert code == 0
    assert not ANSI.search(screen)


def test_queues_are_paused_and_resumed(shell: Shell) -> None:
    assert shell("queues", "pause", "a", "b").stdout == "a is paused\nb is paused\n"
    assert "a is paused until 2" in shell("queues", "pause", "a", "--for", "10m").stdout
    shell("queues", "pause", "b", "--until", "2100-01-01T00:00:00Z")
    a, b = document(shell, "list")
    assert a["paused"]
    assert a["paused_until"] < "2100"
    assert b["paused_until"].startswith("2100-01-01")
    said = shell("queues", "resume", "a", "b", "c").stdout
    assert said == "a runs again\nb runs again\nc was not paused\n"
    wrong = shell("queues", "pause", "a", "--for", "1m", "--until", "2100-01-01T00:00:00Z", code=2)
    assert "not both" in wrong.stderr


def test_limits_are_set_and_taken_away(shell: Shell) -> None:
    said = shell(
        "queues", "limit", "a", "--max-depth", "10", "--on-full", "wait", "--aging", "5m",
        "--rate-limit", "5/second", "--rate-burst", "9",
    ).stdout  # fmt: skip
    assert said == "a: 5/second, burst 9, depth 10 (wait), aging 300 s\n"
    said = shell("queues", "limit", "a", "--rate-limit", "none", "--aging", "none").stdout
    assert said == "a: depth 10 (wait)\n"
    assert shell("queues", "limit", "a", "--max-depth", "none").stdout == "a: no limits\n"
    assert "something to change" in shell("queues", "limit", "a", code=2).stderr
    assert "from 1 to" in shell("queues", "limit", "a", "--concurrency", "0", code=2).stderr
    assert "'100/minute'" in shell("queues", "limit", "a", "--rate-limit", "x", code=2).stderr


def test_purge_and_move_count_ask_and_act(shell: Shell) -> None:
    first = enqueued(shell, "app.welcome", "user_id=1")
    second = enqueued(shell, "app.boom", "x=1", "-Q", "emails")
    assert shell("queues", "purge", "emails", "--preview").stdout == "Cancel 2 jobs of emails?\n"
    refused = shell("queues", "move", "emails", "b", code=2)
    assert "Move 2 jobs from emails to b? Nobody is here to ask: add --yes." in refused.stderr
    moved = shell("queues", "move", "emails", "b", "--task", "app.welcome", "--yes").stdout
    assert moved == "1 job moved from emails to b\n"
    assert (shown(shell, first)["queue"], shown(shell, second)["queue"]) == ("b", "emails")
    code, screen = at_terminal(shell, "queues", "purge", "emails", typed="n\n")
    assert (code, "Cancel 1 job of emails?" in screen) == (1, True)
    assert document(shell, "purge", "emails", "--preview") == {"jobs": 1, "preview": True}
    code, screen = at_terminal(shell, "queues", "purge", "emails", typed="y\n")
    assert (code, "1 job of emails cancelled" in screen) == (0, True)
    assert shown(shell, second)["reason"] == "purged from its queue"
    assert document(shell, "purge", "b", "--yes") == {"jobs": 1, "preview": False}
    assert shell("queues", "purge", "b").stdout == "0 jobs of b cancelled\n"


def test_a_job_says_why_it_has_not_run(shell: Shell) -> None:
    job_id = enqueued(shell, "app.welcome", "user_id=1")
    assert shell("jobs", "why", job_id).stdout == "No live worker serves its queue 'emails'.\n"
    told = json.loads(shell("jobs", "why", job_id, "--json").stdout)
    assert told == {"id": job_id, "why": "No live worker serves its queue 'emails'."}
    shell("jobs", "why", "01890a5d-ac96-774b-bcce-b302099a8057", code=3)
