"""The reference says what the code says."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "reference").glob("*.md"))


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build.py"))


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "build.py"), "--check"],
        cwd=DOCS.parent,
        env={"PYTHONPATH": str(DOCS.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_lags_behind_the_code_is_noticed(build: dict[str, Any]) -> None:
    page = (DOCS / "reference" / "settings.md").read_text()
    stale = page.replace("| `poll_interval` | `SONIQ_POLL_INTERVAL` | `5.0` |", "| gone |")
    assert stale != page
    assert build["built"](stale) == page


def test_every_generated_part_is_on_a_page(build: dict[str, Any]) -> None:
    found = [
        name for p in PAGES for name in re.findall(r"<!-- generated: (\S+) -->", p.read_text())
    ]
    assert sorted(found) == sorted(build["PARTS"])


def test_every_table_and_column_of_the_schema_is_described(database_url: str) -> None:
    page = (DOCS / "reference" / "schema.md").read_text()
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    with psycopg.connect(database_url) as connection:
        columns = connection.execute("""
            SELECT table_name, array_agg(CAST(column_name AS text) ORDER BY ordinal_position)
            FROM information_schema.columns
            WHERE table_schema = 'soniq' AND table_name !~ '^history_'
            GROUP BY table_name""").fetchall()
    written = {t: re.findall(r"^\| `(\w+)` \|", s, re.MULTILINE) for t, s in sections.items()}
    assert {table: sorted(names) for table, names in written.items()} == {
        table: sorted(names) for table, names in columns
    }
