"""A job's life: which state follows which, and what an attempt's ending makes of its job.

```
enqueue ─▶ scheduled ──due──▶ queued ──claim──▶ processing ──▶ done        (history)
              ▲                 ▲  │                │  ├──▶ cancelled       (history)
              │                 │  └─cancel─────────┼──┘
              └──retry, snooze──┴───────────────────┤
                        release, rescue             └──▶ dead letter        (dead_letters)
```
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias, assert_never

from ..errors import InvalidArguments
from ..job.options import TaskOptions
from ..job.outcome import (
    AlreadyWritten,
    Cancel,
    CancelAsked,
    Discard,
    Ending,
    Interrupted,
    Raised,
    Retry,
    Returned,
    Signal,
    Snooze,
    TimedOut,
)
from ..job.record import Claimed, JobStatus
from .retry import delay

S = JobStatus

# (from, event) -> to. The SQL of store/ is held against this table by a test. Retries, snoozes and
# reschedules without a delay lead to `queued` at once.
TRANSITIONS: dict[tuple[JobStatus, str], JobStatus] = {
    (S.SCHEDULED, "due"): S.QUEUED,
    (S.SCHEDULED, "cancel"): S.CANCELLED,
    (S.SCHEDULED, "retry_now"): S.QUEUED,
    (S.SCHEDULED, "reschedule"): S.SCHEDULED,
    (S.QUEUED, "claim"): S.PROCESSING,
    (S.QUEUED, "cancel"): S.CANCELLED,
    (S.QUEUED, "reschedule"): S.SCHEDULED,
    (S.PROCESSING, "finish"): S.DONE,
    (S.PROCESSING, "drop"): S.CANCELLED,
    (S.PROCESSING, "bury"): S.DEAD_LETTER,
    (S.PROCESSING, "again"): S.SCHEDULED,
    (S.PROCESSING, "snooze"): S.SCHEDULED,
    (S.PROCESSING, "release"): S.QUEUED,
    (S.PROCESSING, "rescue"): S.QUEUED,
    (S.PROCESSING, "rescue_last"): S.DEAD_LETTER,
    (S.PROCESSING, "rescue_cancelled"): S.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What is kept of an attempt that went wrong.

    Attributes:
        outcome: `failed`, `timed_out`, `retry`, `discarded` or `snoozed_out`.
        error: Type and message.
        traceback: The handler's part of it, shortened.
    """

    outcome: str
    error: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Done; the result is JSON text, None for none."""

    result: str | None


@dataclass(frozen=True, slots=True)
class Again:
    """Run once more after a delay in seconds; the attempt counts."""

    delay: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class Later:
    """Snooze for seconds; the attempt does not count."""

    delay: float


@dataclass(frozen=True, slots=True)
class Bury:
    """Make it a dead letter."""

    reason: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class Drop:
    """End it as cancelled."""

    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """Back to the queue; the attempt does not count."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """It is written already."""


Verdict: TypeAlias = Finish | Again | Later | Bury | Drop | Release | Nothing


def judge(
    ending: Ending,
    job: Claimed,
    options: TaskOptions,
    *,
    draw: float,
    snooze_max: int,
    policy_delay: float | None = None,
    policy_asked: bool = False,
) -> Verdict:
    """Decide what an attempt's ending makes of its job.

    Args:
        ending: How the attempt ended.
        job: The job as it was claimed.
        options: What its task declares.
        draw: A number from 0 up to 1, for jitter.
        snooze_max: Times a job may snooze.
        policy_delay: What the task's own retry policy answered; None is "no more".
        policy_asked: Whether there is such a policy and it answered.
    """
    match ending:
        case Returned(result):
            return Finish(result)
        case AlreadyWritten():
            return Nothing()
        case Interrupted():
            return Release()
        case CancelAsked():
            return Drop("cancelled while it ran")
        case Raised(Signal() as signal):
            return _obey(signal, job, options, draw=draw, snooze_max=snooze_max)
        case TimedOut() | Raised():
            verdict = _doom(failure := _failure(ending), ending, job, options)
            if verdict is None and policy_asked and policy_delay is None:
                verdict = Bury("the retry policy said no more", failure)
            if verdict is not None:
                return verdict
            wait = delay(options.retry, job.attempt, draw=draw)
            return Again(wait if policy_delay is None else policy_delay, failure)
        case _:
            assert_never(ending)


def _obey(
    signal: Signal, job: Claimed, options: TaskOptions, *, draw: float, snooze_max: int
) -> Verdict:
    match signal:
        case Snooze(seconds=seconds) if job.snoozes < snooze_max:
            return Later(seconds)
        case Snooze():
            reason = f"snoozed more than snooze_max ({snooze_max}) times"
            return Bury(reason, Failure("snoozed_out", described(signal)))
        case Cancel(reason=reason):
            return Drop(reason or "cancelled by the handler")
        case Discard():
            return Bury(str(signal), Failure("discarded", described(signal)))
        case Retry(after=after) if job.attempt < job.max_attempts:
            wait = delay(options.retry, job.attempt, draw=draw) if after is None else after
            return Again(wait, Failure("retry", described(signal)))
        case _:
            return Bury("all attempts used", Failure("retry", described(signal)))


def _failure(ending: TimedOut | Raised) -> Failure:
    match ending:
        case TimedOut():
            return Failure("timed_out", described(ending.error()))
        case Raised(raised):
            return Failure("failed", described(raised), shortened(raised))


def _doom(
    failure: Failure, ending: TimedOut | Raised, job: Claimed, options: TaskOptions
) -> Bury | None:
    """Bury the job if nothing may follow this attempt."""
    if isinstance(ending, Raised) and _never_again(ending.error, options):
        return Bury(f"{type(ending.error).__name__} is not retried", failure)
    if job.attempt >= job.max_attempts:
        return Bury("all attempts used", failure)
    return None


def described(error: BaseException) -> str:
    """Name an error and what it says, at most 2,000 characters, without NUL."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - a handler's error may be broken itself
        said = "(its message could not be read)"
    return cleaned(f"{type(error).__name__}: {said}" if said else type(error).__name__, 2000)


def shortened(error: BaseException) -> str:
    """Write the traceback's last frames from the handler on, at most 8,000 characters."""
    if isinstance(text := getattr(error, "__traceback_text__", None), str):
        return text  # it comes from another process, whose frames could not
    try:
        lines = traceback.format_exception(type(error), error, _from_handler(error), limit=-20)
    except Exception:  # noqa: BLE001 - a handler's error may be broken itself
        return ""
    return cleaned("".join(lines), 8000)


def _from_handler(error: BaseException) -> TracebackType | None:
    """Leave out the worker's own frames, which come first and tell a reader nothing."""
    link = error.__traceback__
    while link is not None and _is_ours(link):
        link = link.tb_next
    return link or error.__traceback__


def _is_ours(link: TracebackType) -> bool:
    return str(link.tb_frame.f_globals.get("__name__", "")).startswith("soniq.")


def cleaned(text: str, longest: int) -> str:
    """Make text storable: no NUL, no half surrogates, not longer than `longest` characters."""
    text = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def _never_again(error: BaseException, options: TaskOptions) -> bool:
    # Arguments that do not fit this release of the code may fit the next one: deploys overlap.
    if isinstance(error, options.discard_on):
        return True
    allowed = options.retry_on
    return allowed is not None and not isinstance(error, (*allowed, InvalidArguments))
