"""Django's, which run in processes of their own: see `django_side.py`."""

from __future__ import annotations

import fcntl
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
PATIENCE_SECONDS = 240
TITLES = {
    "psycopg": [
        "connection",
        "connections[alias]",
        "alias",
        "connections[alias], pool",
        "connection, view",
        "connection, sync view under ASGI",
        "connection, async view, one hop",
        "connection, async view",
    ],
    "psycopg2": [
        "connection",
        "connections[alias]",
        "alias",
        "connection, view",
        "connection, sync view under ASGI",
        "connection, async view, one hop",
        "connection, async view",
    ],
}


@cache
def outcomes(driver: str, place: Place) -> dict[str, dict[str, str | None]]:
    """Have all cases run on all of Django's lenders with a driver, once for all processes."""
    assert place.folder is not None
    with open(place.folder / f"django_{driver}.json", "a+") as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        shared.seek(0)
        found = shared.read()
        if not found:
            found = run(driver, place)
            shared.write(found)
    answers: dict[str, Any] = json.loads(found)
    return answers


def run(driver: str, place: Place) -> str:
    done = subprocess.run(
        [*PROCESS, driver, place.url, place.elsewhere],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
