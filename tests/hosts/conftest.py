from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from .lender import Place


@pytest.fixture(scope="session")
def place(
    make_database: Callable[..., str], keeper: psycopg.Connection[Any], migrated_template: str
) -> Iterator[Place]:
    """Two databases for the whole suite: each case has a queue of its own."""
    made = Place(make_database(migrated_template), make_database())
    yield made
    for url in (made.url, made.elsewhere):
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        keeper.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
