"""What becomes of a job by what its handler raises or returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from soniq import Soniq
from soniq.events import JobCancelled, JobDied, JobRetried, JobSnoozed
from soniq.job import Cancel, Discard, JobContext, Retry, Snooze
from soniq.job.record import Job, JobStatus

from .conftest import Ask, Seen, ended, eventually, run_once, working

pytestmark = pytest.mark.anyio

# The options of a task, which retry it is, and the seconds until it.
DELAYS: list[tuple[dict[str, Any], int, float, float]] = [
    ({"retry_delay": 10}, 1, 10, 10),
    ({"retry_delay": 10}, 3, 10, 10),
    ({"retry_delay": [5, 30, 300]}, 1, 5, 5),
    ({"retry_delay": [5, 30, 300]}, 2, 30, 30),
    ({"retry_delay": [5, 30, 300]}, 9, 300, 300),
    ({"retry_delay": 10, "retry_backoff": True}, 1, 10, 10),
    ({"retry_delay": 10, "retry_backoff": True}, 4, 80, 80),
    ({"retry_delay": 0, "retry_backoff": True}, 3, 4, 4),
    ({"retry_delay": 10, "retry_backoff": True, "retry_max_delay": 25}, 3, 25, 25),
    ({"retry_delay": [5, 3000], "retry_max_delay": 25}, 2, 25, 25),
    ({"retry_delay": 10, "retry_jitter": True}, 1, 5, 10),
    ({}, 1, 0.5, 1),
    ({}, 4, 4, 8),
    ({}, 20, 1800, 3600),
    ({"retry_policy": lambda error, attempt, job: 70 + attempt}, 2, 72, 72),
    ({"retry_policy": lambda error, attempt, job: 1 / 0, "retry_delay": 33}, 1, 33, 33),
    ({"retry_policy": lambda error, attempt, job: "soon", "retry_delay": 33}, 1, 33, 33),
    ({"retry_policy": lambda error, attempt, job: -5}, 1, 0, 0),
    ({"retry_policy": lambda error, attempt, job: float("inf"), "retry_delay": 33}, 1, 33, 33),
    ({"retry_policy": lambda error, attempt, job: float("nan"), "retry_delay": 33}, 1, 33, 33),
]


async def test_each_row_of_the_table_of_delays_is_kept_by_the_clock_of_the_database(
    app: Soniq, ask: Ask
) -> None:
    async def fail(ctx: JobContext) -> None:
        if ctx.attempt == int(ctx.tags[0]):
            raise ValueError("no")
        raise Snooze(3600)  # a retry that was due at once

    ids: list[str] = []
    for row, (options, retry, _, _) in enumerate(DELAYS):
        task = app.job(f"fail{row}", max_retries=50, tags=[str(retry)], **options)(fail)
        ids.append(await app.enqueue(task))
        await ask("UPDATE soniq.jobs SET attempt = %s WHERE id = %s", retry - 1, ids[-1])
    await run_once(app)
    for job_id, (options, retry, low, high) in zip(ids, DELAYS, strict=True):
        job = await app.get_job(job_id)
        assert (job.attempt, [a.outcome for a in job.attempts]) == (retry, ["failed"]), options
        ((delay,),) = await ask(
            "SELECT CAST(extract(epoch FROM scheduled_at - CAST("
            " attempts -> 0 ->> 'ended_at' AS timestamptz)) AS float) FROM soniq.jobs"
            " WHERE id = %s",
            job_id,
        )
        if high == 0:
            assert delay > 3000, options
        else:
            assert low <= delay <= high, options


async def test_a_job_runs_its_retries_and_then_becomes_a_dead_letter(
    app: Soniq, seen: Seen
) -> None:
    @app.job(max_retries=2, retry_delay=0)
    async def fail(ctx: JobContext) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    job_id = await app.enqueue(fail)
    async with working(app):
        died = await seen.one(JobDied, job_id=job_id)
    assert (died.attempt, died.error) == (3, "ValueError: attempt 3")
    assert [event.attempt for event in seen.of(JobRetried)] == [1, 2]
    job = await app.get_job(job_id)
    assert (job.status, job.reason) == (JobStatus.DEAD_LETTER, "all attempts used")
    assert [(a.attempt, a.outcome, a.error) for a in job.attempts] == [
        (n, "failed", f"ValueError: attempt {n}") for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stored_traceback_begins_with_the_handler(app: Soniq, kind: str) -> None:
    """Readers had to scroll past eight frames of the worker to find their own."""

    def deeper() -> None:
        raise ValueError("no")

    if kind == "async":

        @app.job(name="fail", max_retries=0)
        async def fail() -> None:
            deeper()
    else:

        @app.job(name="fail", max_retries=0)
        def fail_in_thread() -> None:
            deeper()

    job_id = await app.enqueue("fail")
    await run_once(app)
    lines = ((await app.get_job(job_id)).attempts[0].traceback or "").splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f'File "{__file__}"' in lines[1]
    assert lines[1].endswith(("in fail", "in fail_in_thread"))
    assert lines[-1] == "ValueError: no"
    assert "soniq/worker" not in "".join(lines[1:-1]).replace(__file__, "")


async def test_a_retry_without_delay_starts_at_once_also_after_a_long_attempt(
    app: Soniq,
) -> None:
    """A job with `retry_delay=0` waited for the next poll, up to 5 s, when its attempt was long.

    The ending put it back into its queue, but the worker's own fetcher was asleep and not told.
    """
    began: list[float] = []

    @app.job(retry_delay=0, max_retries=1)
    async def fail() -> None:
        began.append(anyio.current_time())
        if len(began) == 1:
            await anyio.sleep(1)
            began.append(anyio.current_time())
            raise ValueError

    async with working(app):
        await app.wait(await app.enqueue(fail), timeout=10)
    assert began[2] - began[1] < 0.35


async def test_a_retry_policy_that_answers_none_ends_the_job(app: Soniq) -> None:
    asked: list[tuple[str, int, Job]] = []

    def policy(error: BaseException, attempt: int, job: Job) -> None:
        asked.append((str(error), attempt, job))

    @app.job(retry_policy=policy, max_retries=5)
    async def fail(number: int) -> None:
        raise ValueError("no")

    job_id = await app.enqueue(fail, 7)
    await run_once(app)
    job = await app.get_job(job_id)
    assert (job.status, job.attempt) == (JobStatus.DEAD_LETTER, 1)
    ((error, attempt, told),) = asked
    assert (error, attempt, told.id, told.args) == ("no", 1, job_id, {"number": 7})


async def test_the_policy_of_the_application_serves_tasks_that_have_none(
    anyio_backend: Any, database_url: str
) -> None:
    async with Soniq(database_url, retry_policy=lambda error, attempt, job: None) as app:

        @app.job
        async def fail() -> None:
            raise ValueError

        @app.job(retry_policy=lambda error, attempt, job: 60)
        async def patient() -> None:
            raise ValueError

        ids = [await app.enqueue(fail), await app.enqueue(patient)]
        await run_once(app)
        found = [(await app.get_job(each)).status for each in ids]
    assert found == [JobStatus.DEAD_LETTER, JobStatus.SCHEDULED]


async def test_retry_on_and_discard_on_choose_by_the_kind_of_error(app: Soniq) -> None:
    async def fail(kind: str) -> None:
        raise {"lookup": LookupError, "key": KeyError, "value": ValueError}[kind](kind)

    only = app.job("only", retry_on=LookupError)(fail)
    never = app.job("never", discard_on=[LookupError])(fail)
    both = app.job("both", retry_on=LookupError, discard_on=KeyError)(fail)
    wanted = {
        (only, "key"): JobStatus.SCHEDULED,
        (only, "value"): JobStatus.DEAD_LETTER,
        (never, "key"): JobStatus.DEAD_LETTER,
        (never, "value"): JobStatus.SCHEDULED,
        (both, "key"): JobStatus.DEAD_LETTER,
        (both, "lookup"): JobStatus.SCHEDULED,
    }
    ids = {await app.enqueue(task, kind): status for (task, kind), status in wanted.items()}
    await run_once(app)
    for job_id, status in ids.items():
        job = await app.get_job(job_id)
        assert job.status is status, (job.task, job.args)
        if status is JobStatus.DEAD_LETTER:
            assert job.reason == f"{(job.last_error or '').partition(':')[0]} is not retried"


SIGNALS = {
    "snooze": (lambda: Snooze(600), JobStatus.SCHEDULED, 0, None, None),
    "retry": (lambda: Retry(after=700, reason="soon"), JobStatus.SCHEDULED, 1, "retry", None),
    "cancel": (lambda: Cancel("gone"), JobStatus.CANCELLED, 1, None, "gone"),
    "discard": (lambda: Discard("bad"), JobStatus.DEAD_LETTER, 1, "discarded", "bad"),
    # Reasons of any type reach the record: a number once stopped the whole worker.
    "odd cancel": (lambda: Cancel(404), JobStatus.CANCELLED, 1, None, "404"),
    "odd discard": (lambda: Discard(404), JobStatus.DEAD_LETTER, 1, "discarded", "404"),
    "odd retry": (lambda: Retry(5, 404), JobStatus.SCHEDULED, 1, "retry", None),
}


@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_handler_bends_its_jobs_course_by_a_signal(app: Soniq, how: str, kind: str) -> None:
    """Also with reasons that are no text: `Cancel(404)` once stopped the whole worker."""

    def act(make: Callable[[], Any]) -> Any:
        if how == "raised":
            raise make()
        return make()

    ids = {}
    for name, (make, *_) in SIGNALS.items():
        if kind == "async":

            async def handler(make: Any = make) -> Any:
                return act(make)
        else:

            def handler(make: Any = make) -> Any:  # type: ignore[misc]
                return act(make)

        ids[name] = await app.enqueue(app.job(name)(handler))
    await run_once(app)
    for name, job_id in ids.items():
        _, status, attempt, outcome, reason = SIGNALS[name]
        job = await app.get_job(job_id)
        assert (job.status, job.attempt, job.reason) == (status, attempt, reason), name
        assert [a.outcome for a in job.attempts] == ([outcome] if outcome else []), name


async def test_signals_are_told_as_events(app: Soniq, seen: Seen) -> None:
    made = {"snooze": Snooze(600), "retry": Retry(700), "cancel": Cancel("gone")}

    @app.job
    async def act(name: str) -> None:
        raise made[name]

    for name in made:
        await app.enqueue(act, name)
    await run_once(app)
    assert seen.of(JobSnoozed)[0].delay == 600
    assert seen.of(JobRetried)[0].delay == 700
    assert seen.of(JobCancelled)[0].reason == "gone"


async def test_a_job_that_snoozes_more_than_snooze_max_times_dies(app: Soniq, seen: Seen) -> None:
    @app.job
    async def snooze() -> None:
        raise Snooze(0)

    job_id = await app.enqueue(snooze)
    async with working(app, snooze_max=3):
        await seen.one(JobDied)
    job = await app.get_job(job_id)
    assert len(seen.of(JobSnoozed)) == 3
    assert (job.status, job.attempt) == (JobStatus.DEAD_LETTER, 1)
    assert [a.outcome for a in job.attempts] == ["snoozed_out"]
    assert "snooze_max" in (job.reason or "")


async def test_retry_as_a_signal_ends_when_the_attempts_are_used_up(app: Soniq) -> None:
    @app.job(max_retries=1, retry_delay=0)
    async def again() -> None:
        raise Retry(0)

    job_id = await app.enqueue(again)
    async with working(app):
        job = await ended(app, job_id)
    assert (job.status, job.attempt) == (JobStatus.DEAD_LETTER, 2)


async def test_an_ending_that_the_database_refuses_makes_a_dead_letter_and_harms_no_other(
    app: Soniq, ask: Ask
) -> None:
    """One row spoils the statement of its batch: each is then written by itself."""

    @app.job
    async def say(word: str) -> str:
        return word

    await ask(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.result = '"bad"' THEN RAISE EXCEPTION 'no such word'; END IF;
            RETURN NEW;
        END $$"""
    )
    try:
        await ask(
            "CREATE TRIGGER refuse BEFORE INSERT ON soniq.history "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        ids = await app.enqueue_many(say, [(word,) for word in ("good", "bad", "fine")])
        await run_once(app)
    finally:
        await ask("DROP FUNCTION refuse CASCADE")
    good, bad, fine = [await app.get_job(each) for each in ids]
    assert (good.result, fine.result) == ("good", "fine")
    assert (bad.status, bad.reason) == (JobStatus.DEAD_LETTER, "the database refused its ending")
    assert "no such word" in (bad.last_error or "")


async def test_a_job_that_never_began_and_whose_ending_is_refused_is_a_dead_letter_too(
    app: Soniq, ask: Ask
) -> None:
    """It was left as it was: processing, of a worker that knew nothing of it, until that ended."""

    @app.job
    async def note() -> None: ...

    await ask(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'nothing is ever cancelled'; END $$"
    )
    try:
        await ask(
            "CREATE TRIGGER refuse BEFORE INSERT ON soniq.history"
            " FOR EACH ROW WHEN (NEW.state = 'cancelled') EXECUTE FUNCTION public.refuse()"
        )
        job_id = await app.enqueue(note)
        await ask("UPDATE soniq.jobs SET cancel_requested = true")  # as of one handed back
        await run_once(app)
    finally:
        await ask("DROP FUNCTION public.refuse CASCADE")
    job = await app.get_job(job_id)
    assert (job.status, job.reason) == (JobStatus.DEAD_LETTER, "the database refused its ending")
    assert "nothing is ever cancelled" in (job.last_error or "")


async def test_an_ending_that_the_role_may_not_write_waits_until_it_may(
    app: Soniq, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """It was given up, and the job stayed with a worker that knew nothing of it any more."""

    @app.job
    async def note() -> str:
        return "done"

    async def told() -> bool:
        return "endings of 1 jobs wait" in caplog.text

    await ask(
        "CREATE FUNCTION public.forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'permission denied' USING ERRCODE = '42501'; END $$"
    )
    await ask(
        "CREATE TRIGGER forbid BEFORE INSERT ON soniq.history"
        " FOR EACH ROW EXECUTE FUNCTION public.forbid()"
    )
    try:
        async with working(app):
            job_id = await app.enqueue(note)
            await eventually(told)
            await ask("DROP FUNCTION public.forbid CASCADE")
            job = await ended(app, job_id)
    finally:
        await ask("DROP FUNCTION IF EXISTS public.forbid CASCADE")
    assert (job.status, job.attempt, job.result) == (JobStatus.DONE, 1, "done")
