"""Write how attempts ended: many in one round trip, each fenced, none able to harm another."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeAlias

import anyio

from ..db.session import Session
from ..errors import AccessDenied, DatabaseError, TransientError
from ..events import (
    Event,
    JobCancelled,
    JobDied,
    JobFinished,
    JobReleased,
    JobRetried,
    JobSnoozed,
    LeaseLost,
)
from ..job.outcome import Ending, Interrupted, Raised, Returned, TimedOut, seconds_of
from ..job.record import Claimed, Job, JobStatus
from ..policy import lifecycle
from ..policy.lifecycle import Again, Bury, Drop, Finish, Later, Nothing, Release, Verdict
from ..steps import Batch, Query, Steps
from ..store import due, endings, gates
from ..store.channel import SOON_SECONDS, notify, wake
from ..store.endings import Told
from ..store.gates import Opened
from . import breaker
from .attempt import Attempt
from .bench import Bench

log = logging.getLogger("soniq.worker")

Ended: TypeAlias = tuple[Claimed, Attempt | None, Ending]
Judged: TypeAlias = tuple[Claimed, Attempt | None, Verdict]

# How a schedule's jobs are tagged, before its name.
TAG = "schedule:"
# Rows a statement writes at most: larger ones only make others wait for their locks.
MOST = 1000


class Completer:
    """Takes endings off the bench and writes them.

    While one batch is written the next gathers by itself: alone, a job is written at once; under
    load, hundreds share a statement.
    """

    def __init__(self, bench: Bench, session: Session, retry_policy: Any = None) -> None:
        self._bench = bench
        self._session = session
        self._retry_policy = retry_policy
        self._relaxed = bench.settings.ack == "relaxed"

    async def run(self) -> None:
        """Run until cancelled."""
        bench = self._bench
        while True:
            if not bench.ended:
                await bench.wake_complete.wait()
                continue
            bench.writing, bench.ended = bench.ended[:MOST], bench.ended[MOST:]
            await self._write([self._judged(*ended) for ended in bench.writing])
            bench.writing = ()
            if bench.draining or not bench.busy:
                bench.wake_phase.ring()

    async def flush(self) -> None:
        """Write what is left after `run` was cancelled, perhaps in the middle of a statement."""
        bench = self._bench
        begun, bench.writing = bench.writing, ()
        rest, bench.ended = bench.ended, []
        for batch, uncertain in ((begun, True), (rest, False)):
            if batch:
                await self._write([self._judged(*each) for each in batch], uncertain=uncertain)

    # -- judging

    def _judged(self, job: Claimed, attempt: Attempt | None, ending: Ending) -> Judged:
        if type(ending) is Returned:  # nearly all are
            return job, attempt, Finish(ending.result)
        if attempt is None:
            never_ran = Release() if isinstance(ending, Interrupted) else Drop("cancelled")
            return job, None, never_ran
        options = attempt.task.defaults
        policy = options.retry_policy or self._retry_policy
        asked, delay = ask_policy(policy, job, ending)
        verdict = lifecycle.judge(
            ending,
            job,
            options,
            draw=random.random(),  # noqa: S311 - jitter needs no secrecy
            snooze_max=self._bench.settings.snooze_max,
            policy_delay=delay,
            policy_asked=asked,
        )
        return job, attempt, verdict

    # -- writing

    async def _write(self, judged: Sequence[Judged], *, uncertain: bool = False) -> None:
        """Write until it is written; a lost server is waited for."""
        delay = 0.05
        while True:
            try:
                told = await self._session.run(_all_of, self._queries(judged), self._relaxed)
            except (TransientError, AccessDenied) as error:  # it is no fault of the jobs
                log.warning("endings of %d jobs wait for the database: %s", len(judged), error)
                await anyio.sleep(delay * (0.5 + random.random()))  # noqa: S311
                uncertain, delay = True, min(delay * 2, 5.0)
            except DatabaseError as error:
                await self._write_apart(judged, error)
                return
            else:
                opened = [each for each in told if isinstance(each, Opened)]
                self._tell(judged, told, uncertain=uncertain)
                await self._obey(opened)
                return

    async def _obey(self, opened: Sequence[Opened]) -> None:
        """Stop what failures have stopped, here and in the other workers."""
        for each in opened:
            message = breaker.obey(self._bench, each)
            if self._bench.settings.notify != "off":
                with suppress(DatabaseError):  # they fail a little more often, then
                    await self._session.run(notify, message)

    async def _write_apart(self, judged: Sequence[Judged], error: DatabaseError) -> None:
        """One row spoilt the batch: write each by itself, and the bad one as a failure."""
        if len(judged) > 1:
            for each in judged:
                await self._write([each])
            return
        ((job, attempt, verdict),) = judged
        log.error("the ending of job %s could not be written: %s", job.id, error)
        if isinstance(verdict, Bury) and verdict.reason == UNWRITABLE:
            return  # the row stays ours until we sign out; then the others rescue it
        failure = lifecycle.Failure("failed", lifecycle.described(error))
        await self._write([(job, attempt, Bury(UNWRITABLE, failure))])

    def _queries(self, judged: Sequence[Judged]) -> list[Query[Any]]:
        bench = self._bench
        made: list[Query[Any]] = [*queries(judged, bench.id, bench.settings.notify)]
        # The room they leave at their gates is for others, if this worker cannot use it all: it may
        # be busy, not serve the queue of the next, or, of a queue's limit, not have its task.
        shared = bench.draining or bench.ready or bench.settings.queues or bench.limited
        if (shared and self._frees(judged)) or self._due_elsewhere(judged):
            made.append(wake(bench.settings.notify))
        if names := _schedules(judged):
            made.append(due.hurry(names, bench.settings.notify))
        if failed := [
            job.id for job, attempt, verdict in judged if breaker.trips(attempt, verdict)
        ]:
            made.insert(0, gates.failed(bench.id, failed))
        return made

    def _frees(self, judged: Sequence[Judged]) -> bool:
        """Tell whether any of these endings makes room at a limit."""
        bench = self._bench
        return bool(bench.gated or bench.limited) and any(bench.counts(job) for job, _, _ in judged)

    def _due_elsewhere(self, judged: Sequence[Judged]) -> bool:
        """Whether another worker, who leads, must queue one of these jobs before it next looks."""
        return not self._bench.leading and any(
            isinstance(verdict, Again | Later) and 0 < verdict.delay < SOON_SECONDS
            for _, _, verdict in judged
        )

    # -- telling

    def _tell(
        self, judged: Sequence[Judged], written: AbstractSet[str | Opened], *, uncertain: bool
    ) -> None:
        bus = self._bench.bus
        again, tell_done = False, bus.wants(JobFinished)
        for job, attempt, verdict in judged:
            lost = job.id not in written and not isinstance(verdict, Nothing)
            # An answer lost with its connection may have been a success; that is no lost lease.
            if lost and not uncertain:
                bus.emit(LeaseLost(job.id, job.task, job.queue, job.attempt))
            elif tell_done or not isinstance(verdict, Finish | Nothing):
                bus.emit(_event(job, attempt, verdict))
            if isinstance(verdict, Again | Later):
                again = True
                if verdict.delay == 0:  # it is queued already, and nobody was notified
                    self._bench.hear(job.queue)
        if again:
            self._bench.wake_stage.ring()
        if self._frees(judged):
            self._bench.free_gate()
        if due.HURRIED in written:  # also where no notification arrives
            self._bench.wake_schedule.ring()


UNWRITABLE = "the database refused its ending"


def ask_policy(policy: Any, job: Claimed, ending: Ending) -> tuple[bool, float | None]:
    """Ask a retry policy, if there is one and it has a say; tell whether it answered, and what."""
    if policy is None or not isinstance(ending, Raised | TimedOut):
        return False, None
    error = ending.error if isinstance(ending, Raised) else ending.error()
    try:
        answer = policy(error, job.attempt, _record(job))
        return True, None if answer is None else _delay(answer)
    except Exception:
        log.exception("the retry policy of %s failed; its task's delays are used", job.task)
        return False, None


def queries(judged: Sequence[Judged], me: str, notify: str) -> list[Query[str]]:
    """Make the statements that write verdicts, one for each kind of them."""
    done = [(job, verdict.result) for job, _, verdict in judged if type(verdict) is Finish]
    told: dict[type[Verdict], list[Told]] = {}
    for job, _, verdict in judged:
        if type(verdict) is not Finish:
            told.setdefault(type(verdict), []).append(_told(job, verdict))
    makers: dict[type[Verdict], Callable[[list[Told]], Query[str]]] = {
        Again: lambda rows: endings.again(me, rows),
        Later: lambda rows: endings.later(me, rows),
        Bury: lambda rows: endings.bury(me, rows),
        Drop: lambda rows: endings.drop(me, rows),
        Release: lambda rows: endings.release(me, rows, notify),
    }
    made = [makers[kind](rows) for kind, rows in told.items() if kind is not Nothing]
    if done:
        ids, attempts = [job.id for job, _ in done], [job.attempt for job, _ in done]
        made.append(endings.finish(me, ids, attempts, [result for _, result in done]))
    return made


def _schedules(judged: Sequence[Judged]) -> list[str]:
    """Name the schedules whose jobs have ended, by their tags; usually there are none."""
    tags = [
        job.tags
        for job, _, verdict in judged
        if job.tags and TAG in job.tags and not isinstance(verdict, Again | Later | Release)
    ]
    each = (tag for text in tags for tag in json.loads(text))
    return sorted({tag.removeprefix(TAG) for tag in each if tag.startswith(TAG)})


def _delay(answer: float | timedelta) -> float:
    """Read what a retry policy answered; a moment already past is now."""
    seconds = answer if isinstance(answer, timedelta) else float(answer)
    past = isinstance(seconds, float) and seconds < 0
    return 0.0 if past else seconds_of(seconds, "The answer of a retry policy")


def _all_of(queries: Sequence[Query[Any]], relaxed: bool) -> Steps[set[str | Opened]]:
    # What is to be tried again or buried is told to the disk: an attempt must not be forgotten.
    if relaxed and len(queries) == 1 and queries[0].sql is endings.FINISH:
        _, written = yield from Batch([endings.relax(), *queries])
        return set(written)
    if len(queries) == 1:
        return set((yield from queries[0]))
    answers = yield from Batch(queries)
    return {row for rows in answers for row in rows}


def _told(job: Claimed, verdict: Verdict) -> Told:
    match verdict:
        case Later(delay):
            return Told(job.id, job.attempt, delay=delay)
        case Drop(reason):
            return Told(job.id, job.attempt, reason=lifecycle.cleaned(reason, 2000))
        case Again(delay, failure):
            return Told(
                job.id,
                job.attempt,
                delay=delay,
                outcome=failure.outcome,
                error=failure.error,
                traceback=failure.traceback,
            )
        case Bury(reason, failure):
            return Told(
                job.id,
                job.attempt,
                reason=lifecycle.cleaned(reason, 2000),
                outcome=failure.outcome,
                error=failure.error,
                traceback=failure.traceback,
            )
        case _:
            return Told(job.id, job.attempt)


def _event(job: Claimed, attempt: Attempt | None, verdict: Verdict) -> Event:
    about = (job.id, job.task, job.queue, job.attempt)
    match verdict:
        case Again(delay, failure):
            return JobRetried(*about, failure.error, delay)
        case Later(delay):
            return JobSnoozed(*about, delay)
        case Bury(reason, failure):
            return JobDied(*about, failure.error, reason)
        case Drop(reason):
            return JobCancelled(*about, reason)
        case Release():
            return JobReleased(*about)
        case _:
            started = attempt.started if attempt is not None else time.monotonic()
            return JobFinished(*about, time.monotonic() - started)


def _record(job: Claimed) -> Job:
    from ..job.codec import decode

    return Job(
        id=job.id,
        task=job.task,
        queue=job.queue,
        args=decode(job.args),
        status=JobStatus.PROCESSING,
        priority=job.priority,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        scheduled_at=job.scheduled_at,
        created_at=job.created_at,
        timeout=job.timeout,
        tags=tuple(decode(job.tags)) if job.tags else (),
    )
