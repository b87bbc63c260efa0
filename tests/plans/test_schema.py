"""Migrations: applied once each, by whoever comes first; refused when they do not fit the code."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from soniq.errors import SchemaChanged, SchemaMissing, SchemaTooNew
from soniq.schema import migrate
from soniq.store import jobs

from .desk import Desk

Desks = Callable[..., Desk]


@pytest.fixture
def empty(empty_database: str, desks: Desks) -> Desk:
    """A desk at a database without a schema."""
    return desks(empty_database)


def test_setup_applies_every_migration_in_order_and_then_none(empty: Desk) -> None:
    names = [migration.name for migration in migrate.migrations()]
    assert names == sorted(names)
    assert empty.ask(migrate.setup()) == names
    assert empty.ask(migrate.setup()) == []
    assert [record.name for record in empty.ask(migrate.applied())] == names
    state = empty.ask(migrate.status())
    assert (list(state.applied), state.pending, state.newer) == (names, (), ())
    empty.ask(migrate.require())


def test_ten_at_once_make_one_schema(empty: Desk) -> None:
    desks = [empty.another() for _ in range(10)]
    answers: list[Any] = []
    start = threading.Barrier(10)

    def set_up(desk: Desk) -> None:
        start.wait()
        try:
            answers.append(desk.ask(migrate.setup()))
        except Exception as error:
            answers.append(error)
        finally:
            desk.connection.close()

    threads = [threading.Thread(target=set_up, args=(desk,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    names = [migration.name for migration in migrate.migrations()]
    assert sorted(name for answer in answers for name in answer) == names
    empty.ask(migrate.require())


def test_a_schema_that_somebody_made_before_is_used(empty: Desk) -> None:
    """A role that may not create schemas can still set one up that was made for it."""
    empty.sql("CREATE SCHEMA soniq")
    assert empty.ask(migrate.setup())


def test_a_role_that_may_not_create_schemas_sets_up_the_one_it_owns(
    empty: Desk, desks: Desks
) -> None:
    empty.sql("DROP ROLE IF EXISTS soniq_test_modest")
    empty.sql("CREATE ROLE soniq_test_modest LOGIN")
    try:
        empty.sql("CREATE SCHEMA soniq AUTHORIZATION soniq_test_modest")
        modest = desks(psycopg.conninfo.make_conninfo(empty.url, user="soniq_test_modest"))
        assert modest.ask(migrate.setup())
        assert modest.enqueue()
    finally:
        empty.sql("DROP SCHEMA soniq CASCADE")
        empty.sql("DROP ROLE soniq_test_modest")


def test_without_a_schema_the_error_names_the_next_step(empty: Desk) -> None:
    with pytest.raises(SchemaMissing, match="soniq setup"):
        empty.ask(migrate.require())
    state = empty.ask(migrate.status())
    assert (state.applied, state.newer) == ((), ())
    assert list(state.pending) == [migration.name for migration in migrate.migrations()]


def test_an_older_schema_is_refused_and_brought_up_by_setup(desk: Desk) -> None:
    last = migrate.migrations()[-1]
    desk.sql("DELETE FROM {soniq}.migrations WHERE version = %s", last.version)
    assert desk.ask(migrate.status()).pending == (last.name,)
    with pytest.raises(SchemaMissing, match=last.name):
        desk.ask(migrate.require())


def test_a_migration_that_only_takes_away_may_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is applied once the last release is gone, so this one runs without it: require refused."""
    post = migrate.Migration(9001, "post", "9001_post_less", "SELECT 1")
    known = migrate.migrations()
    monkeypatch.setattr(migrate, "migrations", lambda: (*known, post))
    assert desk.ask(migrate.status()).pending == (post.name,)
    desk.ask(migrate.require())


def test_an_edited_migration_is_refused(desk: Desk) -> None:
    first = migrate.migrations()[0]
    desk.sql("UPDATE {soniq}.migrations SET checksum = 'x' WHERE version = %s", first.version)
    with pytest.raises(SchemaChanged, match=first.name):
        desk.ask(migrate.setup())


@pytest.mark.parametrize(("name", "runs"), [("9001_pre_more", True), ("9001_post_less", False)])
def test_a_newer_schema_is_refused_by_setup_and_by_those_it_took_something_from(
    desk: Desk, name: str, runs: bool
) -> None:
    """A `pre` migration only adds: the last release goes on beside it."""
    newer = "INSERT INTO {soniq}.migrations (version, name, checksum) VALUES (9001, %s, 'x')"
    desk.sql(newer, name)
    assert desk.ask(migrate.status()).newer == (name,)
    before = desk.value("SELECT count(*) FROM {soniq}.migrations")
    with pytest.raises(SchemaTooNew, match=name):
        desk.ask(migrate.setup())
    assert desk.value("SELECT count(*) FROM {soniq}.migrations") == before
    if runs:
        desk.ask(migrate.require())
    else:
        with pytest.raises(SchemaTooNew, match=name):
            desk.ask(migrate.require())


def test_a_migration_that_fails_leaves_nothing_of_itself(
    empty: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = migrate.migrations()
    text = "CREATE TABLE {soniq}.half (a integer); SELECT 1 / 0"
    bad = migrate.Migration(9001, "pre", "9001_pre_bad", text)
    monkeypatch.setattr(migrate, "migrations", lambda: (*good, bad))
    with pytest.raises(Exception, match="division by zero"):
        empty.ask(migrate.setup())
    assert empty.value("SELECT to_regclass('soniq.half')") is None
    assert [record.name for record in empty.ask(migrate.applied())] == [m.name for m in good]


@pytest.mark.parametrize("name", ["MyJobs", "_select", "s" * 40, "user"])
def test_any_schema_name_that_the_settings_take_works(
    empty_database: str, desks: Desks, name: str
) -> None:
    desk = desks(empty_database, name)
    desk.ask(migrate.setup())
    job_id = desk.enqueue("always")
    worker = desk.worker()
    (job,) = desk.claim(worker)
    assert desk.finish(worker, job.id, 1) == [job_id]
    assert desk.state(job_id) == "done"
    assert desk.value("SELECT {soniq}.tend_history(interval '0')") == 0
    assert desk.value("SELECT CAST({soniq}.enqueue('task') AS text)")
    elsewhere = desk.sql(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$|^public$'"
    )
    assert elsewhere == [(name,)]


def test_two_schemas_in_one_database_do_not_see_each_other(
    empty_database: str, desks: Desks
) -> None:
    one, two = desks(empty_database, "one"), desks(empty_database, "two")
    one.ask(migrate.setup())
    with pytest.raises(SchemaMissing):
        two.ask(migrate.require())
    two.ask(migrate.setup())
    with psycopg.connect(empty_database, autocommit=True) as ear:
        ear.execute('LISTEN "one"')
        two.worker(idle=True)
        one.enqueue("auto")
        two.enqueue("auto")
        one.value("SELECT {soniq}.enqueue('task')")
        two.enqueue("always")
        one.enqueue("always", queue="mine")
        heard = [notice.payload for notice in ear.notifies(timeout=10, stop_after=1)]
    assert heard == ["q:mine"]
    assert one.value("SELECT count(*) FROM {soniq}.jobs") == 3
    assert two.value("SELECT count(*) FROM {soniq}.jobs") == 2
    job_id = one.enqueue()
    assert two.ask(jobs.find(job_id)) is None
    assert two.ask(jobs.delete(job_id, "off")) is False


def test_the_public_search_path_is_never_used(desk: Desk) -> None:
    """Tables of these names elsewhere on the path are somebody else's."""
    desk.sql("CREATE SCHEMA trap")
    for table in ("jobs", "history", "workers", "queues", "dead_letters", "migrations"):
        desk.sql(f"CREATE TABLE trap.{table} (id text)")
    desk.sql("SET search_path TO trap")
    job_id = desk.enqueue("auto")
    worker = desk.worker()
    assert [job.id for job in desk.claim(worker)] == [job_id]
    desk.finish(worker, job_id, 1)
    assert desk.state(job_id) == "done"
    assert desk.value("SELECT {soniq}.enqueue('task')")
    assert desk.value("SELECT {soniq}.tend_history(interval '1 day')") == 0
    desk.ask(migrate.setup())
    desk.ask(migrate.require())
