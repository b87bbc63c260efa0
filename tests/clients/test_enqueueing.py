"""What is stored for what was asked: targets, options, arguments."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pydantic
import pytest

from soniq import InvalidArguments, InvalidOption, TaskRef, UnknownOption, UnknownTask
from soniq.job import JobContext, JobStatus

from .colour import settled

pytestmark = pytest.mark.anyio
in_any_schema = pytest.mark.parametrize("schema", ["soniq", "oTher_2"], indirect=True)

Stored = Callable[[], int]


def mail(eq: Any, **options: Any) -> Any:
    def send(user_id: int, subject: str = "hello") -> None: ...

    return eq.job("send", **options)(send)


@in_any_schema
async def test_a_task_a_function_a_name_and_a_reference_can_be_enqueued(eq: Any) -> None:
    def work(user_id: int) -> None: ...

    task = eq.job("work")(work)
    for target in (task, work, "work", TaskRef("work")):
        job = await settled(eq.get_job(await settled(eq.enqueue(target, user_id=7))))
        assert (job.task, job.args, job.status) == ("work", {"user_id": 7}, JobStatus.QUEUED)


async def test_arguments_are_stored_by_name_however_they_were_given(eq: Any) -> None:
    task = mail(eq)
    ids = [
        await settled(eq.enqueue(task, 7, "x")),
        await settled(eq.enqueue(task, 7, subject="x")),
        await settled(eq.enqueue(task, args={"user_id": 7, "subject": "x"})),
        await settled(eq.enqueue(task, args=(7, "x"))),
        await settled(task.enqueue(7, subject="x")),
        *await settled(eq.enqueue_many(task, [(7, "x"), {"user_id": 7, "subject": "x"}])),
        *await settled(eq.enqueue_many([task.call(7, "x"), task.call(user_id=7, subject="x")])),
    ]
    for job_id in ids:
        job = await settled(eq.get_job(job_id))
        assert job.args == {"user_id": 7, "subject": "x"}


async def test_the_context_is_no_argument_of_the_caller(eq: Any) -> None:
    @eq.job("ctx")
    def work(a: int, ctx: JobContext, b: int) -> None: ...

    job = await settled(eq.get_job(await settled(eq.enqueue(work, 1, 2))))
    assert job.args == {"a": 1, "b": 2}
    with pytest.raises(InvalidArguments, match="ctx"):
        await settled(eq.enqueue(work, 1, 2, ctx=3))


async def test_what_the_task_declares_holds_unless_the_enqueue_says_otherwise(eq: Any) -> None:
    task = mail(eq, queue="mails", priority=7, max_retries=2, tags=["t"])
    plain = await settled(eq.get_job(await settled(eq.enqueue(task, 1))))
    assert (plain.queue, plain.priority, plain.max_attempts, plain.tags) == ("mails", 7, 3, ("t",))
    assert plain.timeout is None
    asked = task.options(queue="fast", priority=1, max_retries=0, tags=[], timeout=9)
    other = await settled(eq.get_job(await settled(eq.enqueue(asked, 1))))
    assert (other.queue, other.priority, other.max_attempts, other.tags) == ("fast", 1, 1, ())
    assert other.timeout == 9.0
    both = await settled(eq.get_job(await settled(eq.enqueue(asked, 1, queue="faster"))))
    assert (both.queue, both.max_attempts) == ("faster", 1)
    direct = await settled(eq.get_job(await settled(asked.enqueue(1))))
    assert (direct.queue, direct.max_attempts) == ("fast", 1)


async def test_nothing_said_is_the_default_queue_priority_and_the_setting_for_retries(
    make_client: Callable[..., Any], database_url: str, eq: Any, schema: str
) -> None:
    eager = make_client(database_url, schema=schema, max_retries=0)
    for client, attempts in ((eq, 4), (eager, 1)):
        job = await settled(client.get_job(await settled(client.enqueue(mail(client), 1))))
        assert (job.queue, job.priority, job.max_attempts, job.tags) == (
            "default",
            100,
            attempts,
            (),
        )


async def test_a_reference_carries_its_queue_and_options(eq: Any) -> None:
    elsewhere = TaskRef("billing.charge", queue="billing").options(max_retries=0, timeout=3)
    job = await settled(eq.get_job(await settled(eq.enqueue(elsewhere, amount=5))))
    assert (job.task, job.queue, job.max_attempts, job.timeout) == (
        "billing.charge",
        "billing",
        1,
        3,
    )
    with pytest.raises(InvalidArguments, match="must be named"):
        await settled(eq.enqueue(elsewhere, 5))


@in_any_schema
@pytest.mark.parametrize("later", [90, 90.0, timedelta(seconds=90)])
async def test_a_delay_is_reckoned_from_now(eq: Any, later: Any) -> None:
    task = mail(eq)
    for call in (
        eq.enqueue(task, 1, delay=later),
        eq.schedule(task, later, 1),
        task.options(delay=later).enqueue(1),
        eq.enqueue(task.options(delay=later), 1),
    ):
        job = await settled(eq.get_job(await settled(call)))
        assert job.status is JobStatus.SCHEDULED
        assert timedelta(seconds=89) < job.scheduled_at - job.created_at < timedelta(seconds=91)


async def test_a_moment_is_kept_in_any_time_zone(eq: Any) -> None:
    from zoneinfo import ZoneInfo

    task = mail(eq)
    moment = datetime(2100, 7, 1, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))
    for call in (eq.enqueue(task, 1, scheduled_at=moment), eq.schedule(task, moment, user_id=1)):
        job = await settled(eq.get_job(await settled(call)))
        assert (job.scheduled_at, job.status) == (moment, JobStatus.SCHEDULED)


async def test_a_moment_that_is_past_is_now(eq: Any) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    job = await settled(eq.get_job(await settled(eq.enqueue(mail(eq), 1, scheduled_at=past))))
    assert job.status is JobStatus.QUEUED


@in_any_schema
@pytest.mark.parametrize("number", [0, 3, 700])
async def test_many_jobs_are_stored_in_the_order_given(
    eq: Any, stored: Stored, number: int
) -> None:
    """700 go by COPY, three by one statement."""
    task = mail(eq, tags=['a "b"', "c\\d,{}"])
    subjects = ["plain", 'tab\tnewline\nreturn\rback\\slash "quote"', "\\N", "ü€😀", "\\."]
    wanted = [(n, subjects[n % len(subjects)]) for n in range(number)]
    ids = await settled(eq.enqueue_many(task, wanted, queue="bulk", priority=5, delay=60))
    assert stored() == number == len(set(ids))
    assert ids == sorted(ids)
    for job_id, (user_id, subject) in list(zip(ids, wanted, strict=True))[:6]:
        job = await settled(eq.get_job(job_id))
        assert job.args == {"user_id": user_id, "subject": subject}
        assert (job.queue, job.priority, job.tags) == ("bulk", 5, ('a "b"', "c\\d,{}"))
        assert job.status is JobStatus.SCHEDULED


async def test_calls_of_unlike_tasks_go_together(eq: Any) -> None:
    first = mail(eq, queue="mails")

    @eq.job("count", queue="numbers")
    def count(n: int) -> None: ...

    ids = await settled(eq.enqueue_many([first.call(1), count.call(n=2)]))
    found = [await settled(eq.get_job(job_id)) for job_id in ids]
    assert [(job.task, job.queue) for job in found] == [("send", "mails"), ("count", "numbers")]


async def test_one_bad_call_among_many_is_named_and_nothing_is_stored(
    eq: Any, stored: Stored
) -> None:
    task = mail(eq)
    with pytest.raises(InvalidArguments, match=r"Job 1 of the list.*subjekt.*nearest: 'subject'"):
        await settled(eq.enqueue_many(task, [(1,), {"user_id": 1, "subjekt": "x"}]))
    with pytest.raises(InvalidArguments, match=r"Job 1 of the list.*\(5,\)"):
        await settled(eq.enqueue_many(task, [(1,), 5]))
    with pytest.raises(InvalidArguments, match=r"Job 1 of the list.*task\.call"):
        await settled(eq.enqueue_many([task.call(1), (task, 2)]))
    with pytest.raises(InvalidOption, match="needs the list"):
        await settled(eq.enqueue_many(task))
    with pytest.raises(InvalidArguments, match="args_list is a list"):
        await settled(eq.enqueue_many(task, {"user_id": 1}))
    assert stored() == 0


async def test_an_option_that_is_also_a_parameter_is_refused_with_the_way_out(
    eq: Any, stored: Stored
) -> None:
    @eq.job("clash")
    def clash(queue: str, delay: int = 0) -> None: ...

    with pytest.raises(UnknownOption, match=r"'queue' .* task\.options\(queue=.*args="):
        await settled(eq.enqueue(clash, queue="x"))
    assert stored() == 0
    asked = clash.options(queue="q", delay=60)
    job_id = await settled(eq.enqueue(asked, args={"queue": "x", "delay": 1}))
    job = await settled(eq.get_job(job_id))
    assert (job.queue, job.args) == ("q", {"queue": "x", "delay": 1})
    assert job.status is JobStatus.SCHEDULED
    also = await settled(eq.get_job(await settled(asked.enqueue(queue="y"))))
    assert (also.queue, also.args) == ("q", {"queue": "y"})


async def test_an_option_of_options_given_to_enqueue_says_where_it_goes(eq: Any) -> None:
    with pytest.raises(InvalidArguments, match=r"task\.options\(max_retries=\.\.\.\)"):
        await settled(eq.enqueue(mail(eq), 1, max_retries=0))


async def test_parameters_may_be_named_like_those_of_enqueue(eq: Any) -> None:
    @eq.job("names")
    def names(self: int, target: int, args_list: int = 0) -> None: ...

    job = await settled(eq.get_job(await settled(eq.enqueue(names, self=1, target=2))))
    assert job.args == {"self": 1, "target": 2}


async def test_an_unknown_name_is_refused_with_the_nearest(eq: Any, stored: Stored) -> None:
    mail(eq)
    with pytest.raises(UnknownTask, match="Nearest: send"):
        await settled(eq.enqueue("sendd", user_id=1))
    assert stored() == 0


async def test_an_undecorated_function_is_refused(eq: Any) -> None:
    def plain() -> None: ...

    with pytest.raises(UnknownTask, match=r"plain is no task.*@eq\.job\(\)"):
        await settled(eq.enqueue(plain))


@pytest.mark.parametrize("mode", ["warn", "none"])
async def test_validation_can_be_a_warning_or_off(
    mode: str,
    make_client: Callable[..., Any],
    database_url: str,
    eq: Any,
    schema: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make_client(database_url, schema=schema, enqueue_validation=mode)
    with caplog.at_level(logging.WARNING, "soniq"):
        job_id = await settled(client.enqueue("elsewhere", a=1))
    assert (await settled(client.get_job(job_id))).task == "elsewhere"
    assert ("elsewhere" in caplog.text) == (mode == "warn")


class Mail(pydantic.BaseModel):
    user_id: int
    at: datetime | None = None


@dataclasses.dataclass
class Letter:
    user_id: int


class Parcel(msgspec.Struct):
    user_id: int


@pytest.mark.parametrize("model", [Mail, Letter, Parcel])
async def test_a_model_checks_the_arguments_of_every_way_in(
    eq: Any, model: Any, stored: Stored
) -> None:
    def work(letter: Any) -> None: ...

    work.__annotations__["letter"] = model
    work = eq.job("modelled", validate=model)(work)

    @eq.job("fields", args_model=model)
    def fields(user_id: int, at: Any = None) -> None: ...

    ids = [
        await settled(eq.enqueue(work, model(user_id=1))),
        await settled(eq.enqueue(work, user_id=1)),
        await settled(eq.enqueue(work, args=model(user_id=1))),
        await settled(work.enqueue(model(user_id=1))),
        *await settled(eq.enqueue_many(work, [model(user_id=1), {"user_id": 1}])),
        await settled(eq.enqueue(fields, user_id=1)),
    ]
    for job_id in ids:
        assert (await settled(eq.get_job(job_id))).args["user_id"] == 1
    with pytest.raises(InvalidArguments, match="refused"):
        await settled(eq.enqueue(work, usr_id=1))
    assert stored() == len(ids)


async def test_a_task_of_another_application_brings_all_it_needs(
    eq: Any, make_client: Callable[..., Any], database_url: str
) -> None:
    other = mail(make_client(database_url, max_retries=9), queue="theirs")
    job = await settled(eq.get_job(await settled(eq.enqueue(other, 1))))
    assert (job.task, job.queue) == ("send", "theirs")


async def test_a_record_reads_like_the_mapping_it_was(eq: Any) -> None:
    job = await settled(eq.get_job(await settled(eq.enqueue(mail(eq), 1))))
    assert job["status"] == "queued" == job.status
    assert dict(job)["args"] == {"user_id": 1}
    assert set(job) >= {"id", "task", "queue"}
    with pytest.raises(KeyError):
        job["nope"]
