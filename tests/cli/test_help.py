"""What somebody meets who has not called anything yet."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest

from soniq import __version__
from soniq.cli.main import COMMANDS

from .conftest import PATIENCE, ROOT, Shell

pytestmark = PATIENCE

LEAVES = [
    *(name for name in COMMANDS if name not in {"jobs", "dead-letter", "demo"}),
    *(f"jobs {name}" for name in ("list", "show", "cancel", "retry")),
    *(f"dead-letter {name}" for name in ("list", "show", "replay", "delete")),
]


def test_help_imports_neither_the_driver_nor_an_event_loop() -> None:
    code = (
        "import sys\nfrom soniq.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted({'psycopg', 'anyio', 'asyncio', 'soniq.client'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Usage: soniq" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_help_names_every_command_and_every_exit_code(bare: Shell) -> None:
    said = bare("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in said
    for code in ("  0 ", "  1 ", "  2 ", "  3 ", "  130 "):
        assert code in said


def test_summaries_are_the_first_lines_of_the_commands() -> None:
    for name, (where, summary) in COMMANDS.items():
        module, _, attribute = where.partition(":")
        if name == "demo" and not (ROOT / "soniq/cli/demo.py").exists():
            continue
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        if name not in {"enqueue", "demo"}:  # theirs say more
            assert (command.help or "").split("\n")[0].startswith(summary.rstrip(".").split(":")[0])


@pytest.mark.parametrize("command", LEAVES)
def test_every_command_has_help_with_the_shared_options(bare: Shell, command: str) -> None:
    said = bare(*command.split(), "--help").stdout
    assert f"Usage: soniq {command}" in said
    for option in ("--app", "--database-url", "--color / --no-color", "--debug"):
        assert option in said


def test_the_version_is_the_packages(bare: Shell) -> None:
    assert bare("--version").stdout == f"soniq {__version__}\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("statsu",), "There is no command 'statsu'. Did you mean 'status'?"),
        (("jobs", "lst"), "There is no command 'lst'. Did you mean 'list'?"),
        (("worker", "--concurency", "1"), "--concurrency"),
        (("jobs", "show"), "Missing argument 'ID'"),
        (("enqueue", "x", "--delay", "soon"), "'soon' is no duration"),
        (("enqueue", "x", "--at", "2030-01-01T00:00"), "has no time zone"),
        (("enqueue", "x", "--args", "{"), "this is not JSON"),
        (("enqueue", "x", "--args", "[1]"), "arguments go by name"),
        (("enqueue", "x", "y"), "'y' is not key=value"),
        (("enqueue", "x", "y=1", "y=2"), "'y' is given twice"),
        (("enqueue", "x", f"y=[{'1' * 5000}]"), "KEY=VALUE: it cannot be read: Exceeds the limit"),
        (("enqueue", "x", "y=1", "--from", "-"), "leave --args and KEY=VALUE out"),
        (("enqueue", "x", "--from", "nowhere"), "No such file"),
        (("enqueue", "x", "--commit-every", "5"), "is for --from"),
        (("dead-letter", "replay"), "Give ids, or --all"),
        (("dead-letter", "delete", "x", "--queue", "q"), "narrow --all"),
        (("worker", "a:eq", "--app", "b:eq"), "given twice"),
    ],
)
def test_a_wrong_command_line_is_told_in_two_lines(
    bare: Shell, args: tuple[str, ...], said: str
) -> None:
    done = bare(*args, code=2)
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("soniq: ")
    assert said in first
    assert second.startswith("See `soniq")
