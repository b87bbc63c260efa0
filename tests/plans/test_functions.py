"""`soniq.enqueue()` means what the clients' enqueue means, and refuses what they refuse."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from soniq.job.options import checked_due
from soniq.job.record import Job
from soniq.schema import migrate
from soniq.store import bulk, jobs

from .desk import Desk, new_job

MOMENT = datetime(2031, 5, 4, 3, 2, 1, tzinfo=UTC)

SAME: list[tuple[str, dict[str, Any]]] = [
    ("task => 'task'", {}),
    ("task => 'task', args => '{\"a\": [1, null, 1e3], \"b\": \"ü\"}'",
     {"args": '{"a": [1, null, 1e3], "b": "ü"}'}),
    ("task => 'task', queue => 'emails'", {"queue": "emails"}),
    ("task => 'task', priority => 1", {"priority": 1}),
    ("task => 'task', priority => 1000", {"priority": 1000}),
    ("task => 'task', scheduled_at => '2031-05-04 03:02:01+00'", {"due": MOMENT}),
    ("task => 'task', scheduled_at => '2001-05-04 03:02:01+00'",
     {"due": MOMENT.replace(year=2001)}),
    ("task => 'task', delay => '90 seconds'", {"due": 90.0}),
    ("task => 'task', delay => '0'", {"due": 0.0}),
    ("task => 'task', max_retries => 0", {"max_attempts": 1}),
    ("task => 'task', max_retries => 10000", {"max_attempts": 10_001}),
    ("task => 'task', timeout_seconds => 0", {"timeout": 0.0}),
    ("task => 'task', timeout_seconds => 2.5", {"timeout": 2.5}),
    ("task => 'task', tags => '{a,\"b c\"}'", {"tags": ("a", "b c")}),
    ("task => 'task', tags => '{}'", {"tags": ()}),
    ("task => 'task', dedup_key => 'k' || random(), delay => '90 seconds', tags => '{a}'",
     {"due": 90.0, "tags": ("a",)}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "options"), SAME, ids=[call for call, _ in SAME])
def test_the_function_stores_the_row_the_client_stores(
    desk: Desk, call: str, options: dict[str, Any]
) -> None:
    by_sql = desk.value(f"SELECT CAST({{soniq}}.enqueue({call}) AS text)")
    by_client = desk.enqueue(**options)
    first, second = (_row(desk, job_id) for job_id in (by_sql, by_client))
    # A delay is reckoned from each statement's own moment.
    apart = first.pop("scheduled_in") - second.pop("scheduled_in")
    assert abs(apart) < timedelta(milliseconds=1) if options.get("due") != MOMENT else not apart
    assert first == second


def test_a_bulk_stores_the_rows_that_single_enqueues_store(desk: Desk) -> None:
    """By one statement or by COPY: the way must not show."""
    for options in (*(options for _, options in SAME), {"trace": '{"traceparent": "00-1"}'}):
        single = desk.enqueue(**options)
        short = desk.enqueue("auto", **options)
        (many,) = desk.ask(bulk.enqueue_many([new_job(**options)], (), "off"))
        given = [new_job(**options) for _ in range(bulk.COPY_FROM)]
        copied = desk.ask(bulk.enqueue_many(given, (), "off", can_copy=True))[-1]
        rows = [_row(desk, job_id) for job_id in (single, short, many, copied)]
        moved = [row.pop("scheduled_in") for row in rows]
        assert rows[0] == rows[1] == rows[2] == rows[3]
        if not isinstance(options.get("due"), datetime):
            assert max(moved) - min(moved) < timedelta(milliseconds=1)


def _row(desk: Desk, job_id: str) -> dict[str, Any]:
    columns = desk.sql(
        """
        SELECT task, queue, CAST(args AS text), state, priority, attempt, max_attempts, snoozes,
            cancel_requested, started_at, worker_id, timeout_seconds, tags, trace, attempts,
            scheduled_at - created_at
        FROM {soniq}.jobs WHERE id = %s""",
        job_id,
    )
    names = (
        "task queue args state priority attempt max_attempts snoozes cancel_requested started_at "
        "worker_id timeout_seconds tags trace attempts scheduled_in"
    )
    row = dict(zip(names.split(), columns[0], strict=True))
    if row["scheduled_in"].days > 100 or row["scheduled_in"].days < -100:
        row["scheduled_in"] = timedelta(0)
    return row


BAD = [
    "task => NULL",
    "task => ''",
    "task => '  '",
    "task => repeat('x', 256)",
    "task => 't', queue => ''",
    "task => 't', queue => NULL",
    "task => 't', queue => E' \\t'",
    "task => 't', queue => repeat('x', 129)",
    "task => 't', priority => 0",
    "task => 't', priority => 1001",
    "task => 't', priority => 70000",
    "task => 't', priority => NULL",
    "task => 't', args => '[]'",
    "task => 't', args => 'null'",
    "task => 't', args => NULL",
    "task => 't', max_retries => -1",
    "task => 't', max_retries => 10001",
    "task => 't', max_retries => NULL",
    "task => 't', delay => '-1 second'",
    "task => 't', delay => '101 years'",
    "task => 't', delay => '200000 years'",
    "task => 't', delay => '1 s', scheduled_at => now()",
    "task => 't', scheduled_at => 'infinity'",
    "task => 't', scheduled_at => '-infinity'",
    "task => 't', scheduled_at => '12000-01-01'",
    "task => 't', scheduled_at => '0044-03-15 BC'",
    "task => 't', timeout_seconds => -0.5",
    "task => 't', timeout_seconds => 'NaN'",
    "task => 't', timeout_seconds => 'Infinity'",
    "task => 't', tags => ARRAY[NULL]",
    "task => 't', tags => ARRAY['']",
    "task => 't', tags => ARRAY[repeat('x', 101)]",
    "task => 't', tags => array_fill(CAST('x' AS text), ARRAY[51])",
    "task => 't', unique_args => true, dedup_key => 'k'",
    "task => 't', on_conflict => 'skip'",
    "task => 't', dedup_key => '  '",
    "task => 't', dedup_key => 'k', unique_while => ARRAY[NULL]",
    "task => 't', dedup_key => 'k', unique_for => '200000 years'",
    "task => 't', dedup_key => 'k', on_conflict => 'replace', merge => '[]'",
    "task => 't', dedup_key => 'k', on_conflict => 'replace', merge => '{\"a\": null}'",
]


def test_bad_values_are_refused_with_one_code_and_store_nothing(desk: Desk) -> None:
    """Infinite moments were stored once; no client could read such a job, or any list with it."""
    accepted = []
    for call in BAD:
        try:
            desk.sql(f"SELECT {{soniq}}.enqueue({call})")
        except psycopg.Error as error:
            if error.sqlstate != "22023" or "soniq: " not in str(error):
                accepted.append(f"{call}: {error}")
        else:
            accepted.append(call)
    assert not accepted
    assert desk.value("SELECT count(*) FROM {soniq}.jobs") == 0


def test_every_moment_that_is_taken_can_be_read(desk: Desk) -> None:
    for text in ("0002-01-01 00:00+00", "9998-12-31 23:59:59+00"):
        job_id = desk.value("SELECT CAST({soniq}.enqueue('t', scheduled_at => %s) AS text)", text)
        assert isinstance(desk.ask(jobs.get(job_id)), Job)
        assert checked_due(datetime.fromisoformat(text), None) is not None


def test_an_id_can_be_given_and_is_given_back(desk: Desk) -> None:
    given = str(uuid.uuid4())
    assert desk.value("SELECT CAST({soniq}.enqueue('t', id => %s) AS text)", given) == given


def test_uuid7_is_version_7_and_sorts_by_its_moment(desk: Desk) -> None:
    before = datetime.now(UTC)
    made = [uuid.UUID(desk.value("SELECT CAST({soniq}.uuid7() AS text)")) for _ in range(200)]
    after = datetime.now(UTC)
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    moments = [each.int >> 80 for each in made]
    assert moments == sorted(moments)
    assert int(before.timestamp() * 1000) <= moments[0] <= moments[-1] <= after.timestamp() * 1000
    many = desk.sql("SELECT DISTINCT CAST({soniq}.uuid7() AS text) FROM generate_series(1, 20000)")
    assert len(many) == 20_000


def test_a_trigger_can_enqueue_inside_the_transaction_that_fired_it(desk: Desk) -> None:
    desk.sql("CREATE TABLE users (id integer PRIMARY KEY)")
    desk.sql(
        """
        CREATE FUNCTION greet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM {soniq}.enqueue('greet', jsonb_build_object('user_id', NEW.id));
            RETURN NEW; END $$"""
    )
    desk.sql("CREATE TRIGGER greet AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION greet()")
    desk.sql("INSERT INTO users VALUES (7)")
    with desk.connection.transaction(force_rollback=True):
        desk.sql("INSERT INTO users VALUES (8)")
    assert desk.sql("SELECT task, CAST(args AS text) FROM {soniq}.jobs") == [
        ("greet", '{"user_id": 7}')
    ]


@pytest.fixture
def shop(desk: Desk) -> Iterator[str]:
    """A role with the rights that docs/how-to/sql-function.md names for jobs with keys."""
    # Roles are the server's, which other tests use as well.
    name = f"soniq_test_{uuid.uuid4().hex}"
    desk.sql(f"CREATE ROLE {name}")
    desk.sql(f"GRANT USAGE ON SCHEMA {{soniq}} TO {name}")
    desk.sql(f"GRANT SELECT, INSERT ON {{soniq}}.jobs TO {name}")
    desk.sql(f"GRANT SELECT, INSERT, UPDATE ON {{soniq}}.keys TO {name}")
    desk.sql(f"GRANT SELECT ON {{soniq}}.workers, {{soniq}}.queues TO {name}")
    yield name
    desk.sql("RESET ROLE")
    desk.sql(f"DROP OWNED BY {name}")
    desk.sql(f"DROP ROLE {name}")


def test_a_role_needs_no_more_than_the_rights_that_are_documented(desk: Desk, shop: str) -> None:
    desk.sql(f"SET ROLE {shop}")
    first = desk.value("SELECT {soniq}.enqueue('t', dedup_key => 'k', unique_for => '1 s')")
    assert desk.value("SELECT {soniq}.enqueue('t', dedup_key => 'k')") == first
    replaced = "SELECT {soniq}.enqueue('t', dedup_key => 'k', on_conflict => 'replace')"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        desk.sql(replaced)
    desk.sql("RESET ROLE")
    desk.sql(f"GRANT UPDATE ON {{soniq}}.jobs TO {shop}")
    desk.sql(f"SET ROLE {shop}")
    assert desk.value(replaced) == first


@pytest.mark.parametrize("granted", [True, False])
def test_a_new_version_of_the_function_may_be_called_by_whom_the_old_one_might(
    empty_database: str, desks: Callable[[str, str], Desk], shop: str, granted: bool
) -> None:
    """To make it anew is to forget who had been granted it, and to let everybody in."""
    desk = desks(empty_database, "soniq")
    first, *rest = (m.name for m in migrate.migrations())
    before = [name for name in rest if name < "0008"]
    for name in (first, *before):
        desk.ask(migrate.apply(name))
    desk.sql("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {soniq} FROM PUBLIC")
    if granted:
        functions = "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {soniq} TO " + shop
        desk.sql(functions + " WITH GRANT OPTION")
    desk.ask(migrate.setup())
    may = """
        SELECT has_function_privilege(%s, p.oid, 'EXECUTE WITH GRANT OPTION'),
            has_function_privilege(%s, p.oid, 'EXECUTE')
        FROM pg_proc p WHERE p.proname = 'enqueue'"""
    assert desk.sql(may, shop, shop) == [(granted, granted)]
    assert desk.sql("SELECT FROM pg_proc WHERE proname = 'enqueue_1'") == []
    desk.sql(f"DROP OWNED BY {shop}")
