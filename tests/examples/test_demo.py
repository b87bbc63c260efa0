"""`soniq demo`, in a pipe and at a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import ROOT, ask, run

pytestmark = pytest.mark.timeout(110)
WITHOUT = (
    "import sys; sys.modules[{name!r}] = None; from soniq.cli.main import main; main(['demo'])"
)


def at_a_terminal(
    *arguments: str, react: Callable[[subprocess.Popen[bytes], str], None] | None = None
) -> tuple[int, str]:
    """Run a command at a terminal of 30 lines and 90 columns; answer its code and what it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "soniq", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # how a terminal says that the other side has gone
        while data := os.read(ours, 65536):
            said += data
            if react is not None:
                react(process, said.decode(errors="replace"))
    os.close(ours)
    return process.wait(), said.decode()


def last_screen(said: str) -> list[str]:
    """What a person sees in the end: the last drawing, without colours."""
    drawing = re.split(r"\x1b\[\d+A", said)[-1]
    return [re.sub(r"\x1b\[[\d;]*[mK]", "", line).rstrip() for line in drawing.splitlines()]


def test_in_a_pipe_it_writes_lines_and_ends(empty_database: str, tmp_path: Path) -> None:
    done = run(
        "-m", "soniq", "demo", "--users", "3", "--database-url", empty_database, folder=tmp_path
    )
    assert "3 users, 3 mails, each arrived once; every job is done." in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert ask(empty_database, "SELECT count(*) FROM soniq.history WHERE state = 'done'") == 3
    assert ask(empty_database, "SELECT count(*) FROM soniq.workers") == 0


def test_at_a_terminal_it_draws_until_every_mail_has_arrived(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIQ_DATABASE_URL", empty_database)
    code, said = at_a_terminal("demo", "--users", "3")
    assert code == 0, said
    screen = last_screen(said)
    assert screen[0] == "  queue emails    0 queued   0 processing   0 scheduled   3 done"
    assert screen[3:6] == [
        f"  {name:<8} done               2  refused, arrived" for name in ("Ada", "Brahma", "Chen")
    ]
    assert "scheduled          1  refused" in said  # it was seen while it waited for its retry


def test_ctrl_c_ends_it_and_all_it_started(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONIQ_DATABASE_URL", empty_database)
    sent: list[int] = []

    def press(process: subprocess.Popen[bytes], said: str) -> None:
        if "refused" in said and not sent:
            sent.append(process.pid)
            os.killpg(process.pid, signal.SIGINT)

    # The word stands in the header too; a later drawing has it for a mail.
    code, said = at_a_terminal("demo", react=lambda p, s: press(p, s.partition("ATTEMPT")[2]))
    assert code == 130, said
    assert said.rstrip().endswith("soniq: interrupted")
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(sent[0], 0)
    assert ask(empty_database, "SELECT count(*) FROM soniq.workers") == 0


@pytest.mark.parametrize("name", ["aiosmtpd", "fastapi", "uvicorn", "httpx"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(name: str) -> None:
    done = run("-c", WITHOUT.format(name=name), code=1)
    assert done.stdout == ""
    assert done.stderr == (
        f"soniq: The demo needs {name}, not installed here. pip install 'soniq[examples]'.\n"
    )
