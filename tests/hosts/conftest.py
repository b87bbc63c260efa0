from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from .lender import Place, stop_looking


@pytest.fixture(scope="session")
def place(
    make_database: Callable[..., str],
    keeper: psycopg.Connection[Any],
    migrated_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """Two databases for the whole suite: each case has a queue of its own."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = Place(make_database(migrated_template), make_database(), folder)
    yield made
    stop_looking()
    for url in (made.url, made.elsewhere):
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        keeper.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
