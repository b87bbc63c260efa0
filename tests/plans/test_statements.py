"""Every statement parses, on the server at hand; a new one cannot be forgotten."""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType

import pytest

import soniq.schema
import soniq.store
from soniq.db.render import render, with_dollars

from .desk import Desk

_VERB = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE)\b")
_PARAMETER = re.compile(r"%\((\w+)\)s")


def _modules() -> list[ModuleType]:
    packages = (soniq.store, soniq.schema)
    return [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in packages
        for module in pkgutil.iter_modules(package.__path__)
        if not module.ispkg and module.name != "migrations"
    ]


def _texts() -> dict[str, str]:
    return {
        f"{module.__name__}.{name}": value
        for module in _modules()
        for name, value in vars(module).items()
        if isinstance(value, str) and not name.startswith("__") and _VERB.search(value)
    }


def _is_fragment(name: str, text: str) -> bool:
    # Parts that others are put together from start with an underscore and with no statement's verb.
    verbs = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "COPY", "CREATE")
    return name.rsplit(".", 1)[1].startswith("_") and not text.lstrip().startswith(verbs)


STATEMENTS = {
    name: text
    for name, text in _texts().items()
    if not _is_fragment(name, text) and not text.lstrip().startswith(("COPY", "CREATE"))
}


def numbered(text: str, schema: str = "soniq") -> str:
    """Write a statement with `$1`, as PREPARE wants it."""
    names = list(dict.fromkeys(_PARAMETER.findall(text)))
    sql = _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", text)
    return render(sql, schema).replace("%%", "%")


def test_the_statements_are_found() -> None:
    for name in ("claims.CLAIM", "endings.FINISH", "jobs.INSERT", "workers.RESCUE", "leaders.LEAD"):
        assert f"soniq.store.{name}" in STATEMENTS
    assert "soniq.schema.migrate._RECORD" in STATEMENTS
    assert len(STATEMENTS) >= 40


def test_every_statement_can_be_prepared(desk: Desk) -> None:
    """Two could not when they were first run: RETURNING id was ambiguous, `only` is reserved."""
    refused = {}
    for name, text in STATEMENTS.items():
        try:
            desk.connection.execute(f"PREPARE p AS {numbered(text)}".encode())
            desk.connection.execute("DEALLOCATE p")
        except Exception as error:
            refused[name] = str(error)
    assert not refused


def test_every_statement_takes_texts_for_all_its_values(desk: Desk) -> None:
    """So it runs on connections whose owner has codecs of their own for everything else."""
    for name, text in STATEMENTS.items():
        sql, names = with_dollars(text, "soniq")
        desk.connection.execute(f"PREPARE p AS {sql}".encode())
        row = desk.connection.execute(
            "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'p'"
        ).fetchone()
        assert row == (["text"] * len(names),), name
        desk.connection.execute("DEALLOCATE p")


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_every_parameter_is_cast(name: str) -> None:
    """A borrowed connection adapts values in its owner's way: the statement says the types."""
    bare = re.sub(r"CAST\(%\(\w+\)s AS [\w ]+(\[\])?\)", "", STATEMENTS[name])
    assert not _PARAMETER.search(bare)


@pytest.mark.parametrize("name", sorted(name for name in STATEMENTS if ".store." in name))
def test_no_statement_has_what_other_hosts_would_misread(name: str) -> None:
    """SQLAlchemy's text() takes `:x` for a parameter, and a changed table poisons `SELECT *`."""
    text = re.sub(r"'[^']*'", "''", STATEMENTS[name])
    assert "::" not in text
    assert not re.search(r"(?<!:):[a-zA-Z_]", STATEMENTS[name])
    last = text.rsplit(")", 1)[-1] if text.lstrip().startswith("WITH") else text
    assert not re.search(r"(SELECT|RETURNING)\s+(\w\.)?\*", last)
