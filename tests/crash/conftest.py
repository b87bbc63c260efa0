"""The site of the scenarios: made once for each process of the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.chaos import postgres
from benchmarks.chaos.postgres import Site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with postgres.site() as made:
        yield made
