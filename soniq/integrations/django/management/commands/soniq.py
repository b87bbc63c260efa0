"""`manage.py soniq ...` is the command line `soniq`, for this project's application."""

from __future__ import annotations

from argparse import REMAINDER
from typing import Any, NoReturn

from django.core.management.base import BaseCommand

APPLICATION = "soniq.integrations.django:soniq"

# Django has read these before it came here; with a value in the next argument, or after a `=`.
_DJANGOS = ("--settings", "--pythonpath")


class Command(BaseCommand):
    """Hands its arguments over as they are."""

    help = "Background jobs: worker, status, jobs, dead-letter, ... The same as the command soniq."

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command line, and end the process with its exit code."""
        run(_ours(argv[2:]))

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """Answer `manage.py help soniq` with the command line's own help."""
        run(["--help"])

    def add_arguments(self, parser: Any) -> None:
        """Take whatever `call_command("soniq", ...)` gives."""
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *args: str, arguments: list[str], **options: Any) -> None:
        """Run it for `call_command`, which goes on when it ends well."""
        try:
            run(arguments)
        except SystemExit as end:
            if end.code:
                raise


def run(arguments: list[str]) -> NoReturn:
    """Run the command line for this project's application."""
    from soniq.cli.main import main

    main(arguments, application=APPLICATION)


def _ours(arguments: list[str]) -> list[str]:
    """Leave out what was for Django."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in _DJANGOS:
            skip = True
        elif not argument.startswith(tuple(f"{each}=" for each in _DJANGOS)):
            kept.append(argument)
    return kept
