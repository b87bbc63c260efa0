# ruff: noqa: PT012  what is raised in the end is raised by the caller's own block
"""What is so whoever lends the connection; each case runs on every lender.

Each begins with a fresh connection and a queue of its own. What others can see is looked at from
outside, over a connection that has nothing to do with the lender's.
"""

from __future__ import annotations

from typing import Any

import pytest
from clients.colour import settled

from soniq import (
    ConnectionLost,
    DatabaseError,
    DuplicateJob,
    DuplicateSchedule,
    InvalidArguments,
    JobNotFound,
    ScheduleNotFound,
    SchemaMissing,
    Soniq,
    SoniqSync,
    TransactionAborted,
    UnknownConnection,
)

from .lender import Case, Lender, Oops, look, terminate

# What a library, an adapter or a placeholder might stumble over.
ODD = "100% :n ::x %(n)s $1 ? {soniq} 'q' \"d\" back\\slash \t\n é 漢 🐘"


async def a_commit_leaves_one_job(lender: Lender) -> None:
    async with lender.transaction():
        await lender.value("SELECT 1")
        await lender.enqueue()
        assert lender.stored() == []
    assert lender.stored() == [1]


async def a_rollback_leaves_none(lender: Lender) -> None:
    async with lender.transaction(undo=True):
        await lender.value("SELECT 1")
        await lender.enqueue()
    assert lender.stored() == []


async def an_exception_leaves_none(lender: Lender) -> None:
    with pytest.raises(Oops):
        async with lender.transaction():
            await lender.value("SELECT 1")
            await lender.enqueue()
            raise Oops
    assert lender.stored() == []


async def as_the_first_statement_it_commits_with_the_others(lender: Lender) -> None:
    async with lender.transaction():
        await lender.enqueue()
        assert lender.stored() == []
        await lender.value("SELECT 1")
        assert lender.stored() == []
    assert lender.stored() == [1]


async def as_the_first_statement_it_is_rolled_back_with_the_others(lender: Lender) -> None:
    """Where a library begins its transactions late, the job was once committed by itself."""
    async with lender.transaction(undo=True):
        await lender.enqueue()
        await lender.value("SELECT 1")
    async with lender.transaction(undo=True):
        await lender.enqueue()
    async with lender.transaction(undo=True):  # nor is what opens a transaction where there is none
        await lender.store_whole(1, 2)
    assert lender.stored() == []


async def a_savepoint_takes_back_its_own_job_only(lender: Lender) -> None:
    async with lender.transaction():
        await lender.enqueue(1)
        with pytest.raises(Oops):
            async with lender.savepoint():
                await lender.enqueue(2)
                raise Oops
        async with lender.savepoint():
            await lender.enqueue(3)
    assert lender.stored() == [1, 3]


async def a_nested_block_goes_with_the_outer_one(lender: Lender) -> None:
    with pytest.raises(Oops):
        async with lender.transaction():
            async with lender.savepoint():
                await lender.enqueue()
            assert lender.stored() == []
            raise Oops
    assert lender.stored() == []


async def many_jobs_are_one_with_the_transaction(lender: Lender) -> None:
    numbers = [(n,) for n in range(600)]
    async with lender.transaction(undo=True):
        await settled(lender.eq.enqueue_many(lender.task, numbers, connection=lender.lent))
    assert lender.stored() == []
    async with lender.transaction():
        ids = await settled(lender.eq.enqueue_many(lender.task, numbers, connection=lender.lent))
        assert lender.stored() == []
    assert lender.stored() == list(range(600))
    assert ids == sorted(ids)


async def every_operation_of_a_bound_client_is_undone_with_the_transaction(lender: Lender) -> None:
    async with lender.transaction():
        before = [await lender.enqueue(n, delay=60) for n in range(4)]
    everything = "SELECT CAST(json_agg(j ORDER BY id) AS text) FROM soniq.jobs j WHERE queue = %s"
    was = look(lender.place.url, everything, lender.queue)
    async with lender.transaction(undo=True):
        bound = lender.eq.within(lender.lent)
        assert await settled(bound.cancel_job(before[0]))
        assert (await settled(bound.get_job(before[0]))).status == "cancelled"
        assert await settled(bound.delete_job(before[1]))
        with pytest.raises(JobNotFound):
            await settled(bound.get_job(before[1]))
        assert await settled(bound.retry_job(before[2])) == before[2]
        again = await settled(bound.retry_job(before[0]))
        assert await settled(bound.reschedule_job(before[3], delay=5))
        new = await settled(bound.enqueue(lender.task, 9))
        listed = await settled(bound.list_jobs(queue=lender.queue))
        assert {job.id for job in listed} == {before[0], again, before[2], before[3], new}
        stats = {stats.queue: stats for stats in await settled(bound.get_queue_stats())}
        assert (stats[lender.queue].queued, stats[lender.queue].scheduled) == (3, 1)
        assert await settled(bound.dead_letter.list(queue=lender.queue)) == []
        await settled(bound.ensure_initialized())
    assert look(lender.place.url, everything, lender.queue) == was


async def whatever_is_in_a_job_arrives(lender: Lender) -> None:
    async with lender.transaction():
        job_id = await lender.enqueue({ODD: [ODD, 1.5, None, True]}, tags=[ODD, "x"], priority=7)
        job = await settled(lender.eq.within(lender.lent).get_job(job_id))
        assert job.args == {"n": {ODD: [ODD, 1.5, None, True]}}
        assert job.tags == (ODD, "x")
        assert job.priority == 7
    assert lender.stored() == [{ODD: [ODD, 1.5, None, True]}]


async def what_the_caller_set_up_is_neither_used_nor_changed(lender: Lender) -> None:
    await lender.dress_up()
    async with lender.transaction():
        for name, value in SETTINGS.items():
            await lender.value(f"SELECT set_config('{name}', '{value}', false)")
    async with lender.transaction():
        before = await lender.dress(), await lender.value(SHOWN)
    async with lender.transaction():
        job_id = await lender.enqueue("quiet")
        bound = lender.eq.within(lender.lent)
        job = await settled(bound.get_job(job_id))
        assert (job.args, job.status, job.priority) == ({"n": "quiet"}, "queued", 100)
        assert job.created_at.tzinfo is not None
        stats = {stats.queue: stats for stats in await settled(bound.get_queue_stats())}
        assert stats[lender.queue].queued == 1
        assert stats[lender.queue].paused is False
        assert (await lender.dress(), await lender.value(SHOWN)) == before
    async with lender.transaction():
        assert (await lender.dress(), await lender.value(SHOWN)) == before
    assert lender.stored() == ["quiet"]


SETTINGS = {
    "search_path": "nowhere",
    "default_transaction_isolation": "repeatable read",
    "statement_timeout": "77s",
    "timezone": "Asia/Tokyo",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "0",
}
SHOWN = "SELECT concat_ws('|', " + ", ".join(f"current_setting('{n}')" for n in SETTINGS) + ")"


async def outside_a_transaction_each_operation_commits_itself(lender: Lender) -> None:
    await lender.commit_each()
    await lender.enqueue(1)
    assert lender.stored() == [1]
    await settled(lender.eq.enqueue_many(lender.task, [(2,), (3,)], connection=lender.lent))
    assert lender.stored() == [1, 2, 3]


async def outside_a_transaction_what_must_be_whole_is(lender: Lender) -> None:
    await lender.commit_each()
    with pytest.raises(DatabaseError, match="duplicate key"):
        await lender.store_whole(1, twice=True)
    assert lender.stored() == []
    await lender.store_whole(2, 3)
    assert lender.stored() == [2, 3]
    await lender.enqueue(4)
    assert lender.stored() == [2, 3, 4]


async def the_wrong_database_is_refused(lender: Lender) -> None:
    await lender.close()
    await lender.open(lender.place.elsewhere)
    with pytest.raises(Oops):
        async with lender.transaction():
            with pytest.raises(SchemaMissing, match=r"connection that was passed .* set up in"):
                await lender.enqueue()
            raise Oops
    async with lender.transaction():
        assert await lender.value("SELECT 1") == 1
    assert lender.stored() == []


async def a_failed_transaction_is_told_and_can_be_rolled_back(lender: Lender) -> None:
    with pytest.raises(Oops):
        async with lender.transaction():
            with pytest.raises(Exception, match="nowhere_at_all"):
                await lender.value("SELECT nowhere_at_all")
            with pytest.raises(TransactionAborted, match="Roll it back"):
                await lender.enqueue(1)
            raise Oops
    async with lender.transaction():
        await lender.enqueue(2)
    assert lender.stored() == [2]


async def a_broken_connection_is_told_and_can_be_rolled_back(lender: Lender) -> None:
    with pytest.raises(Oops):
        async with lender.transaction():
            await lender.enqueue()
            terminate(lender.place.url, await lender.pid())
            with pytest.raises(ConnectionLost):
                await lender.enqueue()
            raise Oops
    assert lender.stored() == []


async def a_closed_connection_is_told(lender: Lender) -> None:
    await lender.shut()
    with pytest.raises(DatabaseError, match="closed"):
        await lender.enqueue()


async def bad_input_does_not_harm_the_transaction(lender: Lender) -> None:
    async with lender.transaction():
        await lender.enqueue(1)
        with pytest.raises(InvalidArguments):
            await lender.enqueue(object())
        with pytest.raises(JobNotFound):
            await settled(
                lender.eq.within(lender.lent).get_job("01a20eb4-83fe-7469-805e-1b35804e2095")
            )
        await lender.enqueue(2)
    assert lender.stored() == [1, 2]


async def a_duplicate_does_not_harm_the_transaction(lender: Lender) -> None:
    """A unique index refuses one with an error, after which only a rollback is possible."""
    once = lender.task.options(queue=lender.queue, dedup_key=lender.queue)
    merged = once.options(on_conflict="replace", merge={"n": "append"})
    kept = once.options(on_conflict="replace", merge={"n": lambda older, newer: older + newer})
    refused = once.options(on_conflict="raise")
    async with lender.transaction():
        first = await settled(lender.eq.enqueue(once, [1], connection=lender.lent))
        assert await settled(lender.eq.enqueue(once, [2], connection=lender.lent)) == first
        for target in (merged, kept):
            assert await settled(lender.eq.enqueue(target, [3], connection=lender.lent)) == first
        with pytest.raises(DuplicateJob) as duplicate:
            await settled(lender.eq.enqueue(refused, [4], connection=lender.lent))
        assert duplicate.value.job_id == first
        with pytest.raises(DuplicateJob):
            calls = [lender.task.options(queue=lender.queue).call([5]), refused.call([6])]
            await settled(lender.eq.enqueue_many(calls, connection=lender.lent))
        with pytest.raises(DuplicateJob):  # nor are those that a function of the caller's merges
            calls = [kept.call([5]), refused.call([6])]
            await settled(lender.eq.enqueue_many(calls, connection=lender.lent))
        made = await settled(lender.eq.enqueue_many(once, [([7],), ([8],)], connection=lender.lent))
        assert (made, made.outcomes) == ([first, first], ["existing", "existing"])
        assert await lender.value("SELECT 1") == 1
        assert lender.stored() == []
    assert lender.stored() == [[1, 3, 3]]
    async with lender.transaction(undo=True):
        other = lender.task.options(queue=lender.queue, dedup_key=f"{lender.queue} 2")
        await settled(lender.eq.enqueue(other, 1, connection=lender.lent))
    async with lender.transaction():
        await settled(lender.eq.enqueue(other, 2, connection=lender.lent))
    assert lender.stored() == [[1, 3, 3], 2]


async def schedules_are_one_with_the_transaction(lender: Lender) -> None:
    name, args = f"of {lender.queue}", {"n": {ODD: [ODD, 1.5, None, True]}}
    options = {"name": name, "tags": [ODD], "queue": lender.queue, "dedup_key": lender.queue}
    async with lender.transaction(undo=True):
        bound = lender.eq.within(lender.lent).scheduler
        await settled(bound.add(lender.task, every=60, args=args, **options))
        assert (await settled(bound.get(name))).tags == (ODD,)
    async with lender.transaction():
        bound = lender.eq.within(lender.lent).scheduler
        with pytest.raises(ScheduleNotFound):
            await settled(bound.get(name))
        made = await settled(bound.add(lender.task, "0 9 * * *", args=args, **options))
        assert await settled(bound.pause(name))
        assert await settled(bound.resume(name))
        changed = await settled(bound.update(name, jitter=5))
        assert (changed.args, changed.moment, changed.jitter) == (args, made.moment, 5)
        assert len(await settled(bound.preview(name, 3))) == 3
        assert name in [each.name for each in await settled(bound.list(limit=1000))]
        assert await settled(bound.run_now(name)) == await settled(bound.run_now(name))
        with pytest.raises(DuplicateSchedule):
            await settled(bound.add(lender.task, every=60, args=args, **options))
        assert lender.stored() == []
    assert lender.stored() == [{ODD: [ODD, 1.5, None, True]}]
    async with lender.transaction():
        await settled(lender.eq.within(lender.lent).scheduler.remove(name))
    with pytest.raises(ScheduleNotFound):
        await settled(lender.eq.scheduler.get(name))


async def the_client_of_the_other_colour_refuses_it(lender: Lender) -> None:
    other: Any = (SoniqSync if lender.is_async else Soniq)(lender.place.url)
    with pytest.raises(UnknownConnection, match=r"It is (a)?sync"):
        await settled(other.within(lender.lent).list_jobs())
    await settled(other.close())


CASES: list[Case] = [
    a_commit_leaves_one_job,
    a_rollback_leaves_none,
    an_exception_leaves_none,
    as_the_first_statement_it_commits_with_the_others,
    as_the_first_statement_it_is_rolled_back_with_the_others,
    a_savepoint_takes_back_its_own_job_only,
    a_nested_block_goes_with_the_outer_one,
    many_jobs_are_one_with_the_transaction,
    every_operation_of_a_bound_client_is_undone_with_the_transaction,
    whatever_is_in_a_job_arrives,
    what_the_caller_set_up_is_neither_used_nor_changed,
    outside_a_transaction_each_operation_commits_itself,
    outside_a_transaction_what_must_be_whole_is,
    the_wrong_database_is_refused,
    a_failed_transaction_is_told_and_can_be_rolled_back,
    a_broken_connection_is_told_and_can_be_rolled_back,
    a_closed_connection_is_told,
    bad_input_does_not_harm_the_transaction,
    a_duplicate_does_not_harm_the_transaction,
    schedules_are_one_with_the_transaction,
    the_client_of_the_other_colour_refuses_it,
]
