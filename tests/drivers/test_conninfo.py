"""Addresses: what is added, what is hidden, what is refused."""

from __future__ import annotations

import threading

import pytest

from soniq.db.conninfo import Address, needs_lookup, parameters, redacted
from soniq.db.render import encoded, numbered, render
from soniq.errors import SettingsError
from soniq.settings import Settings


def test_a_vanished_server_is_noticed() -> None:
    given = parameters("postgresql://h/d", Settings().with_(connect_timeout=7))
    assert given["keepalives_idle"] == "30"
    assert given["tcp_user_timeout"] == "30000"
    assert given["connect_timeout"] == "7"
    assert given["application_name"] == "soniq"


def test_what_the_url_says_wins() -> None:
    url = "postgresql://h/d?application_name=mine&keepalives=0&connect_timeout=3"
    given = parameters(url, Settings())
    assert (given["application_name"], given["keepalives"]) == ("mine", "0")
    assert str(given["connect_timeout"]) == "3"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:s3cret@h:5432/d", "postgresql://me:***@h:5432/d"),
        ("postgresql://me:s%40cret@h/d?sslmode=require", "postgresql://me:***@h/d?sslmode=require"),
        ("postgresql://h/d?password=s3cret&user=me", "postgresql://me:***@h/d"),
        ("postgresql://h/d?sslpassword=s3cret", "postgresql://h/d?sslpassword=***"),
        ("postgresql:///d?host=/tmp/x&user=me", "postgresql://me@/d?host=/tmp/x"),
        ("host=h dbname=d password=s3cret", "dbname=d host=h password=***"),
        ("postgresql://me:s3 cret@[h/d", "(a database URL that cannot be read)"),
        ("s3cret without a meaning", "(a database URL that cannot be read)"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql://h:port/d?nonsense=1", "nonsense"])
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parameters(url, Settings())
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "needed"),
    [("/tmp", False), ("127.0.0.1,::1", False), ("", False), ("db.example", True)],
)
def test_only_names_are_looked_up(host: str, needed: bool) -> None:
    assert needs_lookup({"host": host}) is needed
    assert not needs_lookup({"host": host, "hostaddr": "127.0.0.1"})


def test_the_url_is_found_out_once_by_many_threads() -> None:
    asked = []
    gate = threading.Event()

    def resolve() -> str:
        asked.append(1)
        gate.wait(5)
        return "postgresql://h/d"

    address = Address(resolve, Settings())
    threads = [threading.Thread(target=address.parameters) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_a_url_that_could_not_be_found_out_is_asked_for_again() -> None:
    answers = iter([LookupError(), "postgresql://h/d"])

    def resolve() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    address = Address(resolve, Settings())
    with pytest.raises(LookupError):
        address.parameters()
    assert address.parameters()["host"] == "h"


def test_statements_are_filled_in_for_one_schema() -> None:
    sql = "SELECT pg_notify({channel}, '{}') FROM {soniq}.jobs"
    assert render(sql, "Mine") == "SELECT pg_notify('Mine', '{}') FROM \"Mine\".jobs"
    assert encoded(sql, "Mine") == render(sql, "Mine").encode()


@pytest.mark.parametrize(
    ("query", "is_numbered"),
    [
        ("SELECT $1", True),
        ("SELECT '%s' LIKE $2", True),
        ("SELECT %s", False),
        ("SELECT '$1 off', %s", False),
        ("SELECT 'it''s $1', %s", False),
        ('SELECT "$1", %s', False),
        ("SELECT $$body$$, %s", False),
    ],
)
def test_placeholders_are_told_apart(query: str, is_numbered: bool) -> None:
    assert numbered(query) is is_numbered
