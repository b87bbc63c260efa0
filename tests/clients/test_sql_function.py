"""`soniq.enqueue(...)` in SQL and the clients' enqueue mean the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from soniq import SoniqError, TaskRef

from .colour import settled

pytestmark = pytest.mark.anyio

MOMENT = datetime(2100, 1, 1, tzinfo=UTC)
ROW = """
    SELECT to_jsonb(j) - '{id,scheduled_at,created_at}'::text[],
           round(extract(epoch FROM scheduled_at - created_at))
    FROM soniq.jobs j WHERE id = %s"""


def in_sql(options: dict[str, Any]) -> tuple[str, list[Any]]:
    """Write a call of the function with the options of the clients, in SQL's notation."""
    named = {"args": "%s::jsonb"}
    values: list[Any] = [json.dumps({"a": 1, "b": ["x"]})]
    for name, value in options.items():
        match name:
            case "delay":
                named["delay"] = "make_interval(secs => %s)"
            case "timeout":
                named["timeout_seconds"] = "%s"
            case "unique":
                named["unique_args"] = "%s"
            case "unique_for":
                named["unique_for"] = "make_interval(secs => %s)"
            case "merge":
                named["merge"] = "%s::jsonb"
            case _:
                named[name] = "%s"
        values.append(json.dumps(value) if name == "merge" else value)
    call = ", ".join(f"{name} => {value}" for name, value in named.items())
    return f"SELECT soniq.enqueue('elsewhere', {call})", values


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "mails"},
        {"priority": 1},
        {"priority": 1000},
        {"delay": 90.5},
        {"delay": 0.0},
        {"scheduled_at": MOMENT},
        {"scheduled_at": datetime(2000, 1, 1, tzinfo=UTC)},
        {"max_retries": 0},
        {"timeout": 1.5},
        {"tags": ["a", 'b "c"']},
        {"unique": True},
        {"dedup_key": "ü key", "delay": 90.5, "tags": ["a"], "priority": 7, "timeout": 1.5},
        {"unique": True, "scheduled_at": MOMENT, "max_retries": 0, "unique_for": 0.5},
    ],
)
async def test_each_option_stores_the_same_row(
    eq: Any, witness: Callable[..., Any], options: dict[str, Any]
) -> None:
    target = TaskRef("elsewhere").options(**options)
    job_id = await settled(eq.enqueue(target, a=1, b=["x"]))
    witness("DELETE FROM soniq.keys")
    ((sql_id,),) = witness(in_sql(options)[0], *in_sql(options)[1])
    assert sql_id.version == 7
    ours, theirs = witness(ROW, job_id)[0], witness(ROW, sql_id)[0]
    assert ours[0] == theirs[0]
    assert abs(ours[1] - theirs[1]) <= (5 if "scheduled_at" in options else 0)


@pytest.mark.parametrize(
    "options",
    [
        {"queue": ""},
        {"queue": "q" * 129},
        {"priority": 0},
        {"priority": 1001},
        {"delay": -1.0},
        {"delay": 1.0, "scheduled_at": MOMENT},
        {"max_retries": -1},
        {"max_retries": 10_001},
        {"timeout": -1.0},
        {"unique": True, "dedup_key": "k"},
        {"unique_for": 5.0},
        {"on_conflict": "skip"},
        {"unique_while": ["queued"]},
        {"dedup_key": ""},
        {"dedup_key": "x" * 256},
        {"unique": True, "unique_while": []},
        {"unique": True, "unique_while": ["queued", "done"]},
        {"unique": True, "unique_for": -1.0},
        {"unique": True, "unique_for": 0.0},
        {"unique": True, "on_conflict": "merge"},
        {"unique": True, "merge": {"b": "append"}},
        {"unique": True, "on_conflict": "replace", "merge": {"b": "max"}},
        {"unique": True, "on_conflict": "replace", "merge": {}},
    ],
)
async def test_each_refuses_what_the_other_refuses(
    eq: Any, witness: Callable[..., Any], stored: Callable[[], int], options: dict[str, Any]
) -> None:
    with pytest.raises(SoniqError):
        await settled(eq.enqueue(TaskRef("elsewhere").options(**options), a=1))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="soniq: "):
        witness(in_sql(options)[0], *in_sql(options)[1])
    assert stored() == 0


async def test_a_number_too_long_for_python_spoils_no_list(
    eq: Any, witness: Callable[..., Any]
) -> None:
    """Python reads no integer of over 4,300 digits: such a job made lists raise ValueError."""
    call = "SELECT soniq.enqueue('elsewhere', jsonb_build_object('n', repeat('9', 5000)::numeric))"
    ((job_id,),) = witness(call)
    other = await settled(eq.enqueue(TaskRef("elsewhere"), n=1))
    found = {job.id: job.args["n"] for job in await settled(eq.list_jobs())}
    assert found == {str(job_id): Decimal("9" * 5000), other: 1}


UNIQUE: list[tuple[dict[str, Any], str, Any]] = [
    ({"unique": True}, "existing", {"a": 1, "b": ["x"]}),
    ({"dedup_key": "k"}, "existing", {"a": 1, "b": ["x"]}),
    ({"dedup_key": "k", "unique_while": ["processing"]}, "enqueued", {"a": 1, "b": ["x"]}),
    ({"dedup_key": "k", "on_conflict": "replace"}, "replaced", {"a": 1, "b": ["x"]}),
    (
        {"dedup_key": "k", "on_conflict": "replace", "merge": {"a": "sum", "b": "append"}},
        "replaced",
        {"a": 2, "b": ["x", "x"]},
    ),
]


@pytest.mark.parametrize("first", ["client", "function"])
@pytest.mark.parametrize(("options", "outcome", "left"), UNIQUE)
async def test_each_knows_the_keys_of_the_other(
    eq: Any,
    witness: Callable[..., Any],
    options: dict[str, Any],
    outcome: str,
    left: Any,
    first: str,
) -> None:
    target = TaskRef("elsewhere").options(**options)
    sql, values = in_sql(options)
    given = {"a": 1, "b": ["x"]}
    if first == "client":
        before = await settled(eq.enqueue(target, args=given))
        after = str(witness(sql, *values)[0][0])
        assert (after == before) == (outcome != "enqueued")
    else:
        before = str(witness(sql, *values)[0][0])
        made = await settled(eq.enqueue_many(target, [given]))
        assert made.outcomes == [outcome]
        assert (made == [before]) == (outcome != "enqueued")
    assert (await settled(eq.get_job(before))).args == left


async def test_with_raise_a_duplicate_is_a_unique_violation_that_names_the_job(
    eq: Any, witness: Callable[..., Any], stored: Callable[[], int]
) -> None:
    job_id = await settled(eq.enqueue(TaskRef("elsewhere").options(dedup_key="k"), a=1))
    sql, values = in_sql({"dedup_key": "k", "on_conflict": "raise"})
    with pytest.raises(psycopg.errors.UniqueViolation, match=f"soniq: job {job_id} has the key"):
        witness(sql, *values)
    assert stored() == 1
