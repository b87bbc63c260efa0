"""Snippets that must and must not check, by mypy strict and by pyright."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECIPE = HERE / "must_check" / "recipe.py"
MISTAKES = HERE / "must_not_check" / "mistakes.py"

Red = set[tuple[str, int]]


def wanted() -> Red:
    lines = MISTAKES.read_text().splitlines()
    return {(MISTAKES.name, n) for n, line in enumerate(lines, 1) if line.endswith("# wrong")}


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *command, str(RECIPE), str(MISTAKES)],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.stdout


@pytest.mark.timeout(180)
def test_mypy_is_red_where_it_should_be_and_nowhere_else(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    said = run(
        "mypy", "--strict", "--cache-dir", str(tmp_path), "--config-file", "", "--output", "json"
    )
    errors = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    red = {(Path(e["file"]).name, e["line"]) for e in errors if e["severity"] == "error"}
    assert red == wanted(), said


@pytest.mark.timeout(180)
def test_pyright_is_red_where_it_should_be_and_nowhere_else() -> None:
    pytest.importorskip("pyright")
    said = run("pyright", "--outputjson", "--pythonpath", sys.executable)
    errors = json.loads(said)["generalDiagnostics"]
    red = {
        (Path(e["file"]).name, e["range"]["start"]["line"] + 1)
        for e in errors
        if e["severity"] == "error"
    }
    assert red == wanted(), said
