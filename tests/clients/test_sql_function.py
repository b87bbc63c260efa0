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
            case _:
                named[name] = "%s"
        values.append(value)
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
    ],
)
async def test_each_option_stores_the_same_row(
    eq: Any, witness: Callable[..., Any], options: dict[str, Any]
) -> None:
    target = TaskRef("elsewhere").options(**options)
    job_id = await settled(eq.enqueue(target, a=1, b=["x"]))
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
