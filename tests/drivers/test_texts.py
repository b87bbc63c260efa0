"""Values as texts, and statements in other libraries' words, mean on the server what they meant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq.db.render import with_colons, with_dollars
from soniq.db.texts import text

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.fixture(scope="module")
def ask(server_url: str) -> Any:
    with psycopg.connect(server_url, autocommit=True) as connection:

        def answer(value: object, kind: str) -> Any:
            sql = f"SELECT CAST(CAST(%s AS text) AS {kind})".encode()
            row = connection.execute(sql, [text(value)]).fetchone()
            assert row is not None
            return row[0]

        yield answer


@given(st.lists(words | st.none()))
def test_a_list_of_texts_arrives(ask: Any, value: list[str | None]) -> None:
    assert ask(value, "text[]") == value


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_whole_number_arrives(ask: Any, value: int) -> None:
    assert ask(value, "bigint") == value


@given(st.floats(allow_nan=False))
def test_a_fraction_arrives(ask: Any, value: float) -> None:
    assert ask(value, "double precision") == value


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_moment_arrives(ask: Any, value: datetime) -> None:
    assert ask(value, "timestamptz") == value


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "boolean"), (False, "boolean"), (None, "integer"), ("x", "text"), ((1, 2), "int[]")],
)
def test_the_rest_arrives(ask: Any, value: object, kind: str) -> None:
    assert ask(value, kind) == (list(value) if isinstance(value, tuple) else value)


def test_what_no_statement_has_is_refused() -> None:
    with pytest.raises(TypeError, match="dict"):
        text({})


SQL = "SELECT %(a)s, '50%%:b', %(b)s, %(a)s FROM {soniq}.t"


def test_statements_in_sqlalchemys_words() -> None:
    assert with_colons(SQL, "s:x") == (
        r"""SELECT CAST(:a AS text), '50%\:b', CAST(:b AS text), CAST(:a AS text) FROM "s\:x".t"""
    )


def test_statements_in_asyncpgs_words() -> None:
    assert with_dollars(SQL, "s:x") == (
        "SELECT CAST($1 AS text), '50%:b', CAST($2 AS text), CAST($1 AS text) FROM \"s:x\".t",
        ("a", "b"),
    )
