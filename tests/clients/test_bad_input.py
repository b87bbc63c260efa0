"""Bad input: each with one of our errors, a next step, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from soniq import (
    AccessDenied,
    ConnectionLost,
    DatabaseMissing,
    InvalidArguments,
    InvalidOption,
    JobNotFound,
    PayloadTooLarge,
    SchemaMissing,
    SchemaTooNew,
    SettingsError,
    SoniqError,
    TaskRef,
    UsageError,
)

from .colour import settled

pytestmark = pytest.mark.anyio

Stored = Callable[[], int]


@pytest.fixture
def eq(make_client: Callable[..., Any], database_url: str) -> Any:
    return make_client(database_url)


@pytest.fixture
def deaf(make_client: Callable[..., Any]) -> Any:
    """A client without a server: what it refuses, it refused before it asked any database."""
    return make_client("postgresql://u@127.0.0.1:1/x", pool_timeout=0.5)


@pytest.fixture
def task(deaf: Any) -> Any:
    def work(value: Any, other: int = 0) -> None: ...

    return deaf.job("work")(work)


cyclic: list[Any] = []
cyclic.append(cyclic)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), r"'value' is a object, which JSON cannot hold\. Pass plain data"),
        (datetime(2026, 1, 1, tzinfo=UTC), "'value' is a datetime.*ISO dates as text"),
        ({"a": [1, {2}]}, r"'value' 'a'\[1\] is a set"),
        (b"bytes", "'value' is a bytes"),
        ({1: "a"}, "key 1; JSON keys are text.*Use str keys"),
        ([{None: 1}], r"'value'\[0\] has the key None"),
        (float("nan"), "'value' is nan.*Pass None or text"),
        ([float("-inf")], r"'value'\[0\] is -inf"),
        ("a\0b", "'value' holds a NUL character"),
        ({"a\0": 1}, "holds a NUL character"),
        ("\ud800", "half a surrogate pair"),
        (cyclic, "contains itself"),
    ],
)
async def test_a_value_that_json_cannot_hold_is_named(
    deaf: Any, task: Any, value: Any, says: str
) -> None:
    for call in (
        lambda: deaf.enqueue(task, value),
        lambda: task.enqueue(value),
        lambda: deaf.enqueue_many(task, [(1,), (value,)]),
        lambda: deaf.enqueue(TaskRef("elsewhere"), value=value),
    ):
        with pytest.raises(InvalidArguments, match=says):
            await settled(call())


async def test_too_large_a_payload_says_how_large_and_what_to_do(
    eq: Any, task: Any, stored: Stored, make_client: Callable[..., Any], database_url: str
) -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"1,048,5.* max_payload_bytes is 1,048,576.*reference"
    ):
        await settled(eq.enqueue(task, "x" * 1_048_576))
    small = make_client(database_url, max_payload_bytes=30)
    await settled(small.enqueue(task, "12345678901234567"))
    with pytest.raises(PayloadTooLarge, match="31 bytes"):
        await settled(small.enqueue(task, "€234567890123456 "))
    assert stored() == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, r"missing 'value'"),
        ({"value": 1, "othr": 2}, "unexpected 'othr' .nearest: 'other'"),
        ({"value": 1, "retries": 3}, "unexpected 'retries'"),
    ],
)
async def test_arguments_that_do_not_fit_are_named(
    deaf: Any, task: Any, given: Any, says: str
) -> None:
    with pytest.raises(InvalidArguments, match=says):
        await settled(deaf.enqueue(task, **given))
    with pytest.raises(InvalidArguments, match=says):
        await settled(deaf.enqueue(task, args=given))


async def test_arguments_given_twice_are_refused(deaf: Any, task: Any) -> None:
    with pytest.raises(InvalidArguments, match="args= or beside it"):
        await settled(deaf.enqueue(task, 1, args={"value": 1}))
    with pytest.raises(InvalidArguments, match="multiple values"):
        await settled(deaf.enqueue(task, 1, value=1))
    with pytest.raises(InvalidArguments, match=r"dict by name.*\(5,\)"):
        await settled(deaf.enqueue(task, args=5))
    with pytest.raises(InvalidArguments, match="Arguments have names, and 1"):
        await settled(deaf.enqueue(task, args={1: 2}))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"scheduled_at": datetime(2026, 1, 1)}, r"no time zone.*datetime\.now\(UTC\)"),  # noqa: DTZ001
        ({"scheduled_at": "tomorrow"}, "must be a datetime"),
        ({"scheduled_at": datetime.now(UTC), "delay": 1}, "not both"),
        ({"delay": -1}, "delay must be between 0"),
        ({"delay": timedelta(seconds=-1)}, "delay must be between 0"),
        ({"delay": float("nan")}, "delay must be between 0"),
        ({"delay": "5"}, "delay takes seconds or a timedelta"),
        ({"priority": 0}, "1 .first. to 1000 .last."),
        ({"priority": 1001}, "1 .first. to 1000 .last."),
        ({"priority": 5.0}, "whole number"),
        ({"priority": True}, "whole number"),
        ({"queue": ""}, "1 to 128 characters"),
        ({"queue": "  "}, "1 to 128 characters"),
        ({"queue": "q" * 129}, "1 to 128 characters"),
        ({"queue": 5}, "1 to 128 characters"),
        ({"queue": "a\0b"}, "cannot store"),
        ({"tags": "word"}, "list of words"),
        ({"tags": [""]}, "1 to 100 characters"),
        ({"tags": ["a"] * 51}, "at most 50 tags"),
    ],
)
async def test_an_option_that_cannot_be_is_refused(
    deaf: Any, task: Any, option: Any, says: str
) -> None:
    for call in (
        lambda: deaf.enqueue(task, 1, **option),
        lambda: deaf.enqueue_many(task, [(1,)], **option),
        lambda: deaf.enqueue(task.options(**option), 1),
    ):
        with pytest.raises(InvalidOption, match=says):
            await settled(call())


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("nothing to see")


nested: list[Any] = []
for _ in range(100_000):
    nested = [nested]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(10**5000, "<int that cannot be shown>", id="number"),
        pytest.param(nested, "<list that cannot be shown>", id="nested"),
        pytest.param(Unspeakable(), "<Unspeakable that cannot be shown>", id="unspeakable"),
        pytest.param("x" * 20_000_000, "20,000,002 characters", id="long"),
    ],
)
async def test_a_complaint_is_short_and_ours_whatever_was_given(
    deaf: Any, task: Any, value: Any, shown: str
) -> None:
    """`repr()` of what was given raised its own error, or made a message of 20 MB."""
    for call in (
        lambda: deaf.enqueue(task, 1, queue=value),
        lambda: deaf.enqueue(task, 1, priority=value),
        lambda: deaf.enqueue(task, 1, scheduled_at=value),
        lambda: deaf.enqueue(task, 1, on_conflict=value),
        lambda: deaf.enqueue(value, 1),
        lambda: deaf.enqueue(task, args=value) if isinstance(value, str) else deaf.enqueue(value),
        lambda: deaf.get_job(value),
        lambda: deaf.list_jobs(limit=value),
        lambda: deaf.job(ordered_retry=value)(print),
        lambda: deaf.scheduler.preview(value),
        lambda: deaf.queues.limit("q", max_depth=value),
    ):
        with pytest.raises(SoniqError) as caught:
            await settled(call())
        assert shown in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", ["no", 0, None, [], object()])
async def test_what_is_yes_or_no_is_nothing_else(deaf: Any, task: Any, value: Any) -> None:
    """A purge with `preview=None` emptied the queue; `retry_jitter="no"` was jitter."""
    for call in (
        lambda: deaf.queues.purge("q", preview=value),
        lambda: deaf.queues.move("q", "r", preview=value),
        lambda: deaf.scheduler.add(task.name, every=5, args=(1,), paused=value),
    ):
        with pytest.raises(InvalidOption, match="is True or False, not"):
            await settled(call())
    for option in ("retry_backoff", "retry_jitter"):
        if value is not None:
            with pytest.raises(InvalidOption, match=f"{option} is True or False, not"):
                deaf.job("other", **{option: value})(print)


async def worked(client: Any, queues: Any) -> None:
    if hasattr(client, "sync"):
        await client.run_worker(queues=queues)
    await anyio.to_thread.run_sync(lambda: client.run_worker(queues=queues))


async def test_what_is_to_be_called_or_walked_through_can_be(deaf: Any, task: Any) -> None:
    with pytest.raises(InvalidOption, match="progress is called with a number, and 5 cannot be"):
        await settled(deaf.enqueue_stream(task, [(1,)], progress=5))
    with pytest.raises(InvalidOption, match="plugins is a list of them, not 5"):
        type(deaf)("postgresql://u@127.0.0.1:1/x", plugins=5)
    for queues in (5, object(), ["\ud800"]):
        with pytest.raises(SettingsError, match=r"queues=: .*names of 1 to 128 characters"):
            await worked(deaf, queues)


async def test_a_moment_for_schedule_must_be_one(deaf: Any, task: Any) -> None:
    for moment, says in ((None, "needs a moment"), ("soon", "delay takes"), (-5, "between 0")):
        with pytest.raises(InvalidOption, match=says):
            await settled(deaf.schedule(task, moment, 1))


async def test_what_is_no_target_is_refused(deaf: Any) -> None:
    for target in (5, None, ["a"]):
        with pytest.raises(UsageError, match=r"cannot be enqueued\. Pass a task"):
            await settled(deaf.enqueue(target))
    with pytest.raises(InvalidOption, match="name must be text"):
        TaskRef("")


async def test_an_id_that_is_none_is_told_from_a_job_that_is_not_there(eq: Any) -> None:
    operations = (eq.get_job, eq.get_result, eq.wait, eq.cancel_job, eq.retry_job, eq.delete_job)
    letters = eq.dead_letter
    for operation in (*operations, letters.get, letters.replay, letters.delete):
        with pytest.raises(UsageError, match="is not a job id"):
            await settled(operation("17"))
    for operation in (eq.get_job, eq.get_result, eq.wait, eq.retry_job):
        with pytest.raises(JobNotFound, match="There is no job"):
            await settled(operation(str(uuid4())))
    for operation in (letters.get, letters.replay):
        with pytest.raises(JobNotFound, match="There is no dead letter"):
            await settled(operation(str(uuid4())))
    for operation in (eq.cancel_job, eq.delete_job, letters.delete):
        assert await settled(operation(str(uuid4()))) is False


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"limit": 0}, "from 1 to 1000"),
        ({"limit": 1001}, "from 1 to 1000.*before="),
        ({"status": "finished"}, "Known: scheduled, queued"),
        ({"queue": ""}, "1 to 128"),
        ({"task": ""}, "1 to 255"),
    ],
)
async def test_a_listing_refuses_what_cannot_be(deaf: Any, asked: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        await settled(deaf.list_jobs(**asked))
    with pytest.raises(UsageError, match="not a job id"):
        await settled(deaf.list_jobs(before="x"))


# -- the database


async def test_an_unreachable_server_is_said_within_the_time_given(
    make_client: Callable[..., Any], task: Any
) -> None:
    client = make_client("postgresql://u:geheim@127.0.0.1:1/x", pool_timeout=0.5, connect_timeout=1)
    for call in (lambda: client.enqueue(task, 1), client.ensure_initialized, client.setup):
        with pytest.raises(ConnectionLost) as caught:
            await settled(call())
        assert "geheim" not in str(caught.value)


async def test_a_url_that_cannot_be_read_shows_no_secret(
    make_client: Callable[..., Any], task: Any
) -> None:
    client = make_client("postgresql://u:geheim@host:port:5/x y")
    with pytest.raises(SettingsError, match="cannot be read") as caught:
        await settled(client.enqueue(task, 1))
    assert "geheim" not in str(caught.value)


async def test_a_refused_login_is_access_denied(
    make_client: Callable[..., Any], database_url: str, witness: Callable[..., Any], task: Any
) -> None:
    role = f"r_{uuid4().hex}"
    witness(f"CREATE ROLE {role} NOLOGIN PASSWORD 'x'")
    try:
        client = make_client(make_conninfo(database_url, user=role), pool_timeout=5)
        with pytest.raises(AccessDenied, match="user, the password and the rights"):
            await settled(client.enqueue(task, 1))
    finally:
        witness(f"DROP ROLE {role}")


async def test_a_role_without_rights_is_access_denied(
    make_client: Callable[..., Any],
    database_url: str,
    witness: Callable[..., Any],
    task: Any,
    stored: Stored,
) -> None:
    role = f"r_{uuid4().hex}"
    witness(f"CREATE ROLE {role} LOGIN")
    try:
        client = make_client(make_conninfo(database_url, user=role), pool_timeout=5)
        with pytest.raises(AccessDenied, match="denied access"):
            await settled(client.enqueue(task, 1))
    finally:
        witness(f"DROP ROLE {role}")
    assert stored() == 0


async def test_a_missing_database_is_told_from_a_missing_schema(
    make_client: Callable[..., Any], empty_database: str, task: Any
) -> None:
    nowhere = make_client(make_conninfo(empty_database, dbname=f"none_{uuid4().hex}"))
    with pytest.raises(DatabaseMissing, match=r"soniq setup.*database URL"):
        await settled(nowhere.enqueue(task, 1))
    client = make_client(empty_database)
    for call in (lambda: client.enqueue(task, 1), client.ensure_initialized, client.list_jobs):
        with pytest.raises(SchemaMissing, match="soniq setup"):
            await settled(call())


async def test_a_newer_schema_is_refused_and_an_older_one_too(
    eq: Any, witness: Callable[..., Any]
) -> None:
    add = "INSERT INTO soniq.migrations (version, name, checksum) VALUES (%s, %s, 'x')"
    witness(add, 9000, "9000_pre_more")
    await settled(eq.ensure_initialized())  # what only adds is no obstacle
    with pytest.raises(SchemaTooNew, match=r"newer than this code: 9000_pre_more.*Upgrade soniq"):
        await settled(eq.setup())
    witness(add, 9001, "9001_post_less")
    with pytest.raises(SchemaTooNew, match="9001_post_less"):
        await settled(eq.ensure_initialized())
    witness("DELETE FROM soniq.migrations WHERE version >= 2")
    with pytest.raises(SchemaMissing, match="older than this code: 0002"):
        await settled(eq.ensure_initialized())


async def test_a_traceback_shows_the_callers_line_and_not_the_drivers(
    make_client: Callable[..., Any], empty_database: str, task: Any
) -> None:
    client = make_client(empty_database)
    with pytest.raises(SoniqError) as caught:
        await settled(client.enqueue(task, 1))
    rooms = [entry.frame.f_globals["__name__"] for entry in caught.traceback]
    assert __name__ in rooms
    assert not [room for room in rooms if room.startswith("psycopg")]
    assert len([room for room in rooms if room.startswith("soniq.db")]) <= 1
    assert isinstance(caught.value.__cause__, psycopg.Error)
