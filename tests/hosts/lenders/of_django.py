"""Django's, which run in processes of their own: see `django_side.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ..lender import Case, Lender, Place

TESTS = Path(__file__).parents[2]
PROCESS = [sys.executable, "-W", "error", "-m", "hosts.django_side"]
TITLES = {
    "psycopg": [
        "connection",
        "connections[alias]",
        "connections[alias], pool",
        "connection, view",
        "connection, sync view under ASGI",
        "connection, async view, one hop",
        "connection, async view",
    ],
    "psycopg2": [
        "connection",
        "connections[alias]",
        "connection, view",
        "connection, sync view under ASGI",
        "connection, async view, one hop",
        "connection, async view",
    ],
}


@cache
def outcomes(driver: str, place: Place) -> dict[str, dict[str, str | None]]:
    """Run all cases on all of Django's lenders with a driver."""
    done = subprocess.run(
        [*PROCESS, driver, place.url, place.elsewhere],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lender(driver: str, title_there: str) -> type[Lender]:
    class InAnotherProcess(Lender):
        title = f"Django {title_there}, {driver}"

        @classmethod
        def run(cls, case: Case, place: Place) -> None:
            outcome = outcomes(driver, place)[title_there][case.__name__]
            if outcome is None:
                pytest.skip("both clients take it")
            assert not outcome, outcome

    return InAnotherProcess


LENDERS: list[type[Lender]] = [
    lender(driver, title) for driver, titles in TITLES.items() for title in titles
]
