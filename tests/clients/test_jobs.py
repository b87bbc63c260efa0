"""Looking at jobs and changing them, wherever in their life they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from soniq import (
    Discard,
    InvalidOption,
    InvalidTransition,
    JobFailed,
    JobNotFound,
    SoniqError,
    WaitTimeout,
)
from soniq.job import JobStatus

from .colour import settled

pytestmark = pytest.mark.anyio


@pytest.fixture
def work(eq: Any) -> Any:
    @eq.job("work", queue="works")
    def work(n: int) -> int:
        if n < 0:
            raise Discard(f"{n} is negative")
        return n * 2

    return work


@pytest.fixture
def run(eq: Any, colour: str) -> Callable[[], Any]:
    """Run what is due; the sync client's worker in a thread, as it makes a loop of its own."""

    async def run() -> None:
        if colour == "sync":
            assert await anyio.to_thread.run_sync(lambda: eq.run_worker(run_once=True)) == 0
        else:
            assert await eq.run_worker(run_once=True) == 0

    return run


async def status(eq: Any, job_id: str) -> JobStatus:
    return (await settled(eq.get_job(job_id))).status


async def test_a_result_is_had_once_the_job_is_done(eq: Any, work: Any, run: Any) -> None:
    job_id = await settled(work.enqueue(21))
    with pytest.raises(InvalidTransition, match=r"is queued and has no result yet\. wait"):
        await settled(eq.get_result(job_id))
    await run()
    assert await settled(eq.get_result(job_id)) == 42
    job = await settled(eq.wait(job_id))
    assert (job.status, job.result, job.attempt) == (JobStatus.DONE, 42, 1)
    assert job.finished_at is not None


async def test_a_dead_letter_has_no_result_but_its_reason(eq: Any, work: Any, run: Any) -> None:
    job_id = await settled(work.enqueue(-1))
    await run()
    with pytest.raises(JobFailed, match=r"work.* is a dead letter .*-1 is negative"):
        await settled(eq.get_result(job_id))
    assert (await settled(eq.wait(job_id))).status is JobStatus.DEAD_LETTER


async def test_a_cancelled_job_has_no_result_either(eq: Any, work: Any) -> None:
    job_id = await settled(work.enqueue(1))
    assert await settled(eq.cancel_job(job_id))
    with pytest.raises(JobFailed, match=r"was cancelled .cancelled before it ran.\."):
        await settled(eq.get_result(job_id))
    assert not await settled(eq.cancel_job(job_id))


async def test_waiting_ends_with_the_job_or_with_the_time(eq: Any, work: Any, run: Any) -> None:
    job_id = await settled(work.enqueue(1))
    with pytest.raises(WaitTimeout, match=r"was still queued after 0\.05 s"):
        await settled(eq.wait(job_id, timedelta(seconds=0.05)))
    with pytest.raises(TimeoutError):
        await settled(eq.wait(job_id, timeout=0))
    with pytest.raises(InvalidOption, match="timeout"):
        await settled(eq.wait(job_id, timeout=-1))
    if not hasattr(eq, "sync"):
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        assert (await eq.wait(job_id, 30)).result == 2


async def test_jobs_are_listed_newest_first_and_page_by_page(eq: Any, work: Any, run: Any) -> None:
    @eq.job("other")
    def other() -> None: ...

    done = await settled(work.enqueue(1))
    dead = await settled(work.enqueue(-1))
    await run()
    late = await settled(eq.enqueue(other, delay=60))
    gone = await settled(other.enqueue())
    await settled(eq.cancel_job(gone))
    here = await settled(eq.enqueue(other, queue="works"))
    everything = [here, gone, late, dead, done]

    async def ids(*args: Any, **asked: Any) -> list[str]:
        return [job.id for job in await settled(eq.list_jobs(*args, **asked))]

    assert await ids() == everything
    assert await ids("scheduled") == [late]
    assert await ids(JobStatus.QUEUED) == [here]
    assert await ids("done") == [done]
    assert await ids("cancelled") == [gone]
    assert await ids("dead_letter") == [dead]
    assert await ids("processing") == []
    assert await ids(queue="works") == [here, dead, done]
    assert await ids(task="work") == await ids(task=work) == [dead, done]
    first = await ids(limit=2)
    assert first + await ids(limit=1000, before=first[-1]) == everything


async def test_retrying_runs_a_waiting_job_now_and_an_ended_one_anew(
    eq: Any, work: Any, run: Any
) -> None:
    late = await settled(eq.enqueue(work, 1, delay=3600))
    assert await settled(eq.retry_job(late)) == late
    assert await status(eq, late) is JobStatus.QUEUED
    with pytest.raises(InvalidTransition, match="is queued already"):
        await settled(eq.retry_job(late))
    dead = await settled(work.enqueue(-3))
    await run()
    for ended, result in ((late, JobStatus.DONE), (dead, JobStatus.DEAD_LETTER)):
        again = await settled(eq.retry_job(ended))
        assert again != ended
        assert await status(eq, again) is JobStatus.QUEUED
        await run()
        assert await status(eq, again) is result
        assert await status(eq, ended) is result


async def test_deleting_forgets_a_job_wherever_it_lies(eq: Any, work: Any, run: Any) -> None:
    ended = [await settled(work.enqueue(n)) for n in (1, -1)]
    await run()
    for job_id in (*ended, await settled(work.enqueue(1))):
        assert await settled(eq.delete_job(job_id))
        with pytest.raises(JobNotFound, match="There is no job"):
            await settled(eq.get_job(job_id))
        assert not await settled(eq.delete_job(job_id))


async def test_a_waiting_job_can_be_moved(eq: Any, work: Any, run: Any) -> None:
    job_id = await settled(work.enqueue(1))
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    assert await settled(eq.reschedule_job(job_id, scheduled_at=moment))
    job = await settled(eq.get_job(job_id))
    assert (job.status, job.scheduled_at) == (JobStatus.SCHEDULED, moment)
    assert await settled(eq.reschedule_job(job_id, delay=0))
    await run()
    assert await status(eq, job_id) is JobStatus.DONE
    assert not await settled(eq.reschedule_job(job_id, delay=0))
    for wrong in ({}, {"delay": 1, "scheduled_at": moment}, {"delay": -1}):
        with pytest.raises(InvalidOption):
            await settled(eq.reschedule_job(job_id, **wrong))


async def test_queues_tell_how_they_stand(eq: Any, work: Any, run: Any) -> None:
    await settled(work.enqueue(-1))
    await run()
    await settled(eq.enqueue_many(work, [(1,), (2,)]))
    await settled(eq.enqueue(work, 3, delay=60))
    await settled(eq.enqueue(work, 3, queue="another"))
    another, works = await settled(eq.get_queue_stats())
    assert (another.queue, another.queued, another.dead_letters) == ("another", 1, 0)
    assert (works.queue, works.queued, works.scheduled, works.dead_letters) == ("works", 2, 1, 1)
    assert (works.processing, works.paused) == (0, False)
    assert 0 <= works["oldest_seconds"] < 60


async def test_dead_letters_are_listed_replayed_and_deleted(eq: Any, work: Any, run: Any) -> None:
    job_id = await settled(work.enqueue(-1))
    other = await settled(eq.enqueue(work, -2, queue="elsewhere"))
    await run()
    letters = eq.dead_letter
    assert [letter.id for letter in await settled(letters.list())] == [other, job_id]
    assert [letter.id for letter in await settled(letters.list("works"))] == [job_id]
    assert [letter.id for letter in await settled(letters.list(task=work, limit=1))] == [other]
    assert [letter.id for letter in await settled(letters.list(before=other))] == [job_id]
    letter = await settled(letters.get(job_id))
    assert "-1 is negative" in letter.reason
    assert (letter.job.args, letter.replayed_as) == ({"n": -1}, None)
    assert letter.job.attempts[0].outcome == "discarded"

    new_id = await settled(letters.replay(job_id))
    job = await settled(eq.get_job(new_id))
    assert (job.status, job.attempt, job.args) == (JobStatus.QUEUED, 0, {"n": -1})
    again = await settled(letters.get(job_id))
    assert again.replayed_as == new_id
    assert again.replayed_at is not None

    assert await settled(letters.delete(job_id))
    assert not await settled(letters.delete(job_id))
    with pytest.raises(SoniqError, match="no dead letter"):
        await settled(letters.get(job_id))
