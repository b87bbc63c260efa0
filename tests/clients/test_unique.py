"""Unique jobs, through both clients."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from soniq import DuplicateJob, InvalidArguments, InvalidOption, PayloadTooLarge, TaskRef

from .colour import entered, settled

pytestmark = pytest.mark.anyio
in_any_schema = pytest.mark.parametrize("schema", ["soniq", "oTher_2"], indirect=True)

Stored = Callable[[], int]


def welcome(eq: Any, **options: Any) -> Any:
    def welcome(user_id: int, lang: str = "en") -> None: ...

    return eq.job("welcome", **options)(welcome)


def collect(eq: Any, **options: Any) -> Any:
    def collect(account: int, ids: list[int] | None = None, n: float = 0) -> None: ...

    return eq.job("collect", **options)(collect)


@in_any_schema
async def test_a_unique_task_has_one_live_job_for_the_same_arguments(
    eq: Any, stored: Stored
) -> None:
    task = welcome(eq, unique=True)
    first = await settled(eq.enqueue(task, 1))
    assert await settled(eq.enqueue(task, user_id=1)) == first
    assert await settled(eq.enqueue("welcome", 1, queue="other")) == first
    assert await settled(eq.schedule(task, 60, 1)) == first
    assert await settled(task.enqueue(1)) == first
    assert await settled(eq.enqueue(task, 2)) != first
    assert stored() == 2
    await settled(eq.cancel_job(first))
    assert await settled(eq.enqueue(task, 1)) != first


async def test_each_option_can_be_said_by_the_enqueue(eq: Any, stored: Stored) -> None:
    task = welcome(eq)
    key: dict[str, Any] = {"dedup_key": "k"}
    for given in (
        {"unique": True},
        key,
        {**key, "unique_while": {"scheduled", "queued"}},
        {**key, "unique_for": timedelta(hours=1)},
        {**key, "on_conflict": "skip"},
    ):
        first = await settled(eq.enqueue(task, 1, **given))
        assert await settled(eq.enqueue(task, 1, **given)) == first
        assert await settled(eq.schedule(task, 9, 1, **given)) == first
        assert await settled(eq.enqueue_many(task, [(1,), (1,)], **given)) == [first, first]
        assert await settled(eq.enqueue(task.options(**given), 1)) == first
        assert await settled(eq.enqueue(TaskRef("welcome").options(**given), user_id=1)) == first
        assert await settled(eq.enqueue_stream(task.options(**given), [(1,), (1,)])) == 0
    assert stored() == 2


async def test_a_key_is_made_of_the_arguments_and_their_defaults(eq: Any, stored: Stored) -> None:
    task = welcome(eq, dedup_key=lambda user_id, lang, **_: f"welcome:{user_id}:{lang}")
    first = await settled(eq.enqueue(task, 1))
    assert await settled(eq.enqueue(task, 1, "en")) == first
    assert await settled(eq.enqueue(task, 1, "de")) != first
    made = await settled(eq.enqueue_many(task, [(1,), (2,), {"user_id": 2, "lang": "en"}]))
    assert made.outcomes == ["existing", "enqueued", "existing"]
    assert made[0] == first
    assert stored() == 3


async def test_an_enqueue_may_want_none_of_its_tasks_uniqueness(eq: Any, stored: Stored) -> None:
    task = welcome(eq, unique=True, unique_for=60)
    ids = {await settled(eq.enqueue(task, 1, unique=False)) for _ in range(2)}
    ids |= {await settled(eq.enqueue(task, 1)), await settled(eq.enqueue(task, 1, dedup_key="k"))}
    assert len(ids) == stored() == 4


async def test_debounce_gives_the_waiting_job_what_came_last(eq: Any, stored: Stored) -> None:
    task = collect(
        eq,
        dedup_key=lambda account, **_: f"account:{account}",
        on_conflict="replace",
        unique_while={"scheduled", "queued"},
        merge={"ids": "append", "n": "sum"},
    )
    first = await settled(eq.enqueue(task, 1, [1], 1, delay=60))
    before = await settled(eq.get_job(first))
    made = await settled(eq.enqueue_many(task, [(1, [2], 0.5), (2,), (1, [3])], delay=90))
    assert (made[0], made[2], made.outcomes) == (first, first, ["replaced", "enqueued", "replaced"])
    job = await settled(eq.get_job(first))
    assert job.args == {"account": 1, "ids": [1, 2, 3], "n": 1.5}
    assert job.scheduled_at > before.scheduled_at + timedelta(seconds=25)
    assert stored() == 2


async def test_a_function_may_merge(eq: Any) -> None:
    task = collect(eq, on_conflict="replace", dedup_key="k", merge={"ids": lambda a, b: [*b, *a]})
    first = await settled(eq.enqueue(task, 1, [1]))
    assert await settled(eq.enqueue(task, 1, [2])) == first
    assert (await settled(eq.get_job(first))).args["ids"] == [2, 1]
    # One that is refused beside it is told from the others too.
    held = welcome(eq, dedup_key="k", on_conflict="raise")
    there = await settled(eq.enqueue(held, 1))
    with pytest.raises(DuplicateJob, match=f"^Job 1 of the list: Job {there} of welc") as refused:
        await settled(eq.enqueue_many([task.call(1, [3]), held.call(2)]))
    assert refused.value.job_id == there
    assert (await settled(eq.get_job(first))).args["ids"] == [2, 1]


async def test_a_duplicate_may_be_an_error_that_names_the_job(eq: Any, stored: Stored) -> None:
    task = welcome(eq, dedup_key="k")
    first = await settled(eq.enqueue(task, 1))
    with pytest.raises(DuplicateJob, match=f"Job {first} of welcome has the key 'k'") as refused:
        await settled(eq.enqueue(task, 1, on_conflict="raise"))
    assert refused.value.job_id == first
    fresh = eq.job("fresh", dedup_key="k")(lambda n: None)
    calls = [fresh.call(1), task.options(on_conflict="raise").call(2)]
    with pytest.raises(DuplicateJob, match="Job 1 of the list: "):
        await settled(eq.enqueue_many(calls))
    assert stored() == 1


async def test_in_a_transaction_of_the_callers_a_duplicate_is_only_an_answer(
    eq: Any, connect: Callable[..., Any], stored: Stored
) -> None:
    task = welcome(eq, unique=True)
    connection = await connect()
    async with entered(connection.transaction()):
        first = await settled(eq.enqueue(task, 1, connection=connection))
        assert await settled(eq.enqueue(task, 1, connection=connection)) == first
        with pytest.raises(DuplicateJob):
            await settled(eq.within(connection).enqueue(task, 1, on_conflict="raise"))
        assert await settled(eq.within(connection).enqueue(task, 2)) != first
        assert stored() == 0
    assert stored() == 2


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"unique": True, "dedup_key": "k"}, InvalidOption, "two things about one key"),
    ({"unique_for": 5}, InvalidOption, "Give unique=True or dedup_key"),
    ({"unique": True, "unique_for": -1}, InvalidOption, "unique_for must be"),
    ({"unique": True, "unique_while": set()}, InvalidOption, "names no state"),
    ({"unique": True, "unique_while": {"waiting"}}, InvalidOption, "not 'waiting'"),
    ({"unique": True, "on_conflict": "ignore"}, InvalidOption, "'skip', 'replace' or 'raise'"),
    ({"unique": True, "merge": {"n": "sum"}}, InvalidOption, "on_conflict is 'skip'"),
    ({"dedup_key": "x" * 256}, InvalidOption, "1 to 255 characters"),
    (
        {"unique": True, "on_conflict": "replace", "merge": {"m": "sum"}},
        InvalidOption,
        "merge names 'm', which is no argument of collect: account, ids, n",
    ),
    (
        {"unique": True, "on_conflict": "replace", "merge": {"account": "append"}},
        InvalidArguments,
        "collect merges account .append., so it must be a list",
    ),
]


@pytest.mark.parametrize(("options", "error", "says"), BAD)
async def test_what_contradicts_itself_is_refused_before_anything_is_written(
    eq: Any, stored: Stored, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    task = collect(eq)
    with pytest.raises(error, match=says):
        await settled(eq.enqueue(task, 1, **options))
    with pytest.raises(error, match=says):
        await settled(eq.enqueue_many(task, [(1,), (2,)], **options))
    with pytest.raises(error, match=says):
        await settled(eq.schedule(task.options(**options), 5, 1))
    assert stored() == 0


@pytest.mark.parametrize("options", [options for options, error, _ in BAD[:8]])
def test_a_task_that_contradicts_itself_cannot_be_declared(eq: Any, options: Any) -> None:
    with pytest.raises(InvalidOption):
        eq.job("t", **options)(lambda account: None)
    assert len(eq.registry) == 0


async def test_an_option_that_is_also_a_parameter_goes_through_options(eq: Any) -> None:
    @eq.job("t")
    def work(merge: int) -> None: ...

    first = await settled(eq.enqueue(work.options(dedup_key="k"), args={"merge": 1}))
    assert await settled(eq.enqueue(work.options(dedup_key="k"), args={"merge": 2})) == first


async def test_merged_arguments_are_no_larger_than_others_may_be(
    make_client: Callable[..., Any], database_url: str
) -> None:
    small = make_client(database_url, max_payload_bytes=60)
    task = collect(small, dedup_key="k", on_conflict="replace", merge={"ids": "append"})
    await settled(small.enqueue(task, 1, list(range(10))))
    with pytest.raises(PayloadTooLarge, match="more than 60 bytes"):
        await settled(small.enqueue(task, 1, list(range(10))))
