"""Why a job has not run: of all that stands in its way, what an operator should look at first."""

from __future__ import annotations

from dataclasses import dataclass

from ..job.record import Job, JobStatus


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits of a job's task that hold for it, and how they stand.

    Attributes:
        gate: `t`, or `k` and a key, or `o` and a key whose jobs run in their order.
        concurrency: Jobs of the task that may run at once; None is no limit.
        key_concurrency: The same for its key.
        running: Jobs of the task that run.
        key_running: Those of its key.
        closed_seconds: For how long the circuit breaker is open; None or negative if it is not.
        rate_wait_seconds: Until another may start; None if one may.
        stopped_by_key: Whether the circuit breaker is that of its key.
        tried_with: The job that tries whether it may close; None is none.
        retried_id: A job of its key, to be run in order, that waits for another try.
    """

    gate: str
    concurrency: int | None
    key_concurrency: int | None
    running: int
    key_running: int
    closed_seconds: float | None
    rate_wait_seconds: float | None
    stopped_by_key: bool = False
    tried_with: str | None = None
    retried_id: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database tells about a live job's surroundings.

    Attributes:
        due_seconds: Until its moment; negative once that is over.
        paused: Whether its queue is.
        paused_seconds: Until that ends by itself; None if it does not.
        workers: Live workers that serve its queue.
        able: Those of them that have its task.
        slots: Of these, all together.
        running: Jobs that run in these slots.
        ahead: Jobs of its queue, or behind the same limit there, that are claimed before it;
            counted up to a thousand and one.
        concurrency: Jobs of its queue that may run at once; None is no limit.
        rate_wait_seconds: Until another of its queue may start; None if one may.
        queue_running: Jobs of its queue that run; counted where that is limited.
        held_by: The name of the worker that has it; None if that worker is not known any more.
        silent_seconds: How long ago that worker gave a sign of life.
        gate: The limits of its task; None if there are none.
    """

    due_seconds: float
    paused: bool
    paused_seconds: float | None
    workers: int
    able: int
    slots: int
    running: int
    ahead: int
    concurrency: int | None
    rate_wait_seconds: float | None
    queue_running: int
    held_by: str | None
    silent_seconds: float | None
    gate: Gate | None = None


def why_not(job: Job, facts: Facts | None, patience_seconds: float) -> str:
    """Say it in a sentence or two.

    Args:
        job: Which.
        facts: None for one that has ended.
        patience_seconds: A worker silent for longer is dead.
    """
    if facts is None:
        return _ended(job)
    if job.status is JobStatus.PROCESSING:
        return _running(job, facts, patience_seconds)
    reasons = [*_later(job, facts), *_paused(job, facts), *_workers(job, facts)]
    if job.status is JobStatus.QUEUED and not reasons:
        limits = [*_limits(job, facts), *_gate(job, facts.gate)]
        reasons = [*limits, *_ahead(facts)] or [
            "Nothing stands in its way: a worker takes it with its next claim."
        ]
    return " ".join(reasons[:2])


def _ended(job: Job) -> str:
    match job.status:
        case JobStatus.DONE:
            return f"It has run, and is done since {job.finished_at:%Y-%m-%d %H:%M:%S %Z}."
        case JobStatus.CANCELLED:
            return f"It was cancelled: {job.reason or 'no reason was given'}."
        case _:
            last = f" Its last error: {job.last_error}." if job.last_error else ""
            return f"It is a dead letter: {job.reason}.{last}"


def _running(job: Job, facts: Facts, patience_seconds: float) -> str:
    if facts.silent_seconds is None or facts.silent_seconds > patience_seconds:
        who = facts.held_by or f"worker {job.worker_id}"
        return (
            f"It ran on {who}, which gives no signs of life. Another worker gives it back once "
            f"that has lasted {patience_seconds:g} s (heartbeat_timeout)."
        )
    stop = " It was asked to stop." if job.cancel_requested else ""
    return f"It is running: {facts.held_by} has it, as attempt {job.attempt}.{stop}"


def _later(job: Job, facts: Facts) -> list[str]:
    if job.status is not JobStatus.SCHEDULED:
        return []
    if facts.due_seconds <= 0:
        return ["Its moment has come, and the next worker that looks will queue it."]
    when = f"{job.scheduled_at:%Y-%m-%d %H:%M:%S %Z}, in {spoken(facts.due_seconds)}"
    if job.attempts:
        last = job.attempts[-1]
        return [f"Attempt {last.attempt} ended as {last.outcome}; the next is due {when}."]
    return [f"It is scheduled for {when}."]


def _paused(job: Job, facts: Facts) -> list[str]:
    if not facts.paused:
        return []
    if facts.paused_seconds is None:
        return [f"Its queue {job.queue!r} is paused; `soniq queues resume` ends that."]
    return [f"Its queue {job.queue!r} is paused for another {spoken(facts.paused_seconds)}."]


def _workers(job: Job, facts: Facts) -> list[str]:
    if not facts.workers:
        return [f"No live worker serves its queue {job.queue!r}."]
    if not facts.able:
        serve = "live worker serves" if facts.workers == 1 else "live workers serve"
        queue = f"{facts.workers} {serve} its queue {job.queue!r}"
        return [f"{queue}, but none has the task {job.task!r}."]
    return []


def _limits(job: Job, facts: Facts) -> list[str]:
    if facts.concurrency is not None and facts.queue_running >= facts.concurrency:
        limited = f"Its queue {job.queue!r} is limited to {facts.concurrency} at once"
        return [f"{limited}, and {facts.queue_running} run now."]
    if facts.rate_wait_seconds is not None:
        left = spoken(facts.rate_wait_seconds)
        return [f"Its queue {job.queue!r} is over its rate; the next may start in {left}."]
    return []


def _gate(job: Job, gate: Gate | None) -> list[str]:
    if gate is None:
        return []
    if gate.closed_seconds is not None:
        of = f"key {gate.gate[1:]!r}" if gate.stopped_by_key else f"task {job.task!r}"
        if gate.closed_seconds > 0:
            left = spoken(gate.closed_seconds)
            return [f"The circuit breaker of its {of} is open for another {left}."]
        if gate.tried_with not in {None, job.id}:
            return [f"The circuit breaker of its {of} is open; job {gate.tried_with} tries it now."]
    if gate.retried_id is not None:
        return [f"Job {gate.retried_id} of its key {gate.gate[1:]!r} waits for its retry first."]
    if gate.concurrency is not None and gate.running >= gate.concurrency:
        limited = f"Its task {job.task!r} is limited to {gate.concurrency} at once"
        return [f"{limited}, and {gate.running} run now."]
    most = 1 if gate.gate.startswith("o") else gate.key_concurrency
    if gate.gate != "t" and most is not None and gate.key_running >= most:
        limited = f"Its key {gate.gate[1:]!r} is limited to {most} at once"
        return [f"{limited}, and {gate.key_running} run now."]
    if gate.rate_wait_seconds is not None:
        left = spoken(gate.rate_wait_seconds)
        return [f"Its task {job.task!r} is over its rate; the next may start in {left}."]
    return []


def _ahead(facts: Facts) -> list[str]:
    said = []
    if facts.ahead:
        many = facts.ahead > 1000
        jobs = "Over 1,000 jobs" if many else "1 job" if facts.ahead == 1 else f"{facts.ahead} jobs"
        said.append(f"{jobs} of its queue {'is' if facts.ahead == 1 else 'are'} before it.")
    if facts.running >= facts.slots:
        said.append(f"All {facts.slots} slots of the workers that have its task are taken.")
    return said


def spoken(seconds: float) -> str:
    """Write a time in the largest unit of which there are two."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
