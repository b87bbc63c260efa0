"""Any number of jobs from a generator: all or none, in little memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from soniq import InvalidArguments
from soniq.job import JobStatus

from .colour import entered, settled

pytestmark = pytest.mark.anyio

Stored = Callable[[], int]

NUMBER = 20_000


@pytest.fixture
def task(eq: Any) -> Any:
    def count(n: int) -> None: ...

    return eq.job("count", queue="numbers")(count)


def numbers(bad_at: int | None = None) -> Iterator[dict[str, object]]:
    for n in range(NUMBER):
        yield {"n": n} if n != bad_at else {"m": n}


async def test_a_stream_is_stored_and_counted(eq: Any, task: Any, stored: Stored) -> None:
    told: list[int] = []
    number = await settled(
        eq.enqueue_stream(task, numbers(), priority=5, delay=60, progress=told.append)
    )
    assert number == stored() == NUMBER
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == NUMBER
    (job,) = await settled(eq.list_jobs(limit=1))
    assert (job.queue, job.priority, job.args) == ("numbers", 5, {"n": NUMBER - 1})
    assert job.status is JobStatus.SCHEDULED


@pytest.mark.parametrize("bad_at", [3, NUMBER - 1])
async def test_a_bad_one_among_a_stream_is_named_and_none_is_stored(
    eq: Any, task: Any, stored: Stored, bad_at: int
) -> None:
    """The last comes when nearly all were sent: they are taken back, and the connection lives."""
    for store in (eq.enqueue_many, eq.enqueue_stream):
        with pytest.raises(InvalidArguments, match=rf"Job {bad_at:d} of the list: .*'m'"):
            await settled(store(task, numbers(bad_at)))
    assert stored() == 0
    assert len(await settled(eq.enqueue_many(task, numbers()))) == stored() == NUMBER


async def test_an_error_of_the_generator_is_the_callers(eq: Any, task: Any, stored: Stored) -> None:
    def broken() -> Iterator[tuple[int]]:
        yield from ((n,) for n in range(NUMBER))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await settled(eq.enqueue_stream(task, broken()))
    assert stored() == 0


async def test_a_stream_in_the_callers_transaction_goes_with_it(
    eq: Any, task: Any, stored: Stored, connect: Any
) -> None:
    connection = await connect()
    async with entered(connection.transaction()):
        number = await settled(eq.enqueue_stream(task, numbers(), connection=connection))
        assert number == NUMBER
        assert stored() == 0
    assert stored() == NUMBER


async def test_text_is_stored_as_it_is_whatever_encoding_the_url_asks_for(
    make_client: Any, database_url: str
) -> None:
    """COPY's bytes are ours, and were read as the connection's: `é` became two letters."""
    eq = make_client(make_conninfo(database_url, client_encoding="latin1"))
    task = eq.job("note", queue="é")(lambda word: None)
    for number in (1, 600):  # one statement, and COPY
        (job_id, *_) = await settled(eq.enqueue_many(task, [{"word": "née"}] * number))
        job = await settled(eq.get_job(job_id))
        assert (job.queue, job.args) == ("é", {"word": "née"})


async def test_a_stream_is_not_held_in_memory(eq: Any, task: Any) -> None:
    """100 bytes a job, or its id alone, would be twice the bound."""
    await settled(eq.enqueue_stream(task, numbers()))
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2):
            await settled(eq.enqueue_stream(task, numbers()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
