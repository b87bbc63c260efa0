"""How jobs with keys are written for their statements, and what is read of what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from ..errors import DuplicateJob, PayloadTooLarge
from ..job.record import NewJob
from ..job.unique import Merger, Unique
from . import rows

# Of all jobs of one statement, as text: jsonb takes several times as much, and has a limit.
MOST_BYTES = 64 * 1024 * 1024

_WAITING = {"scheduled", "queued"}

# What jobs of one kind have in common, beside their rules.
_kind = attrgetter(
    "task", "queue", "priority", "due", "max_attempts", "timeout", "tags", "trace"
)  # fmt: skip


class Placed(NamedTuple):
    """What became of one job; `old_args` when it is still to be merged with what stands."""

    place: int
    job_id: str
    outcome: Any
    old_args: str | None = None


def placed(row: Sequence[Any]) -> Placed:
    """Read a row, with or without the arguments of the job that stands."""
    return Placed(*row)


def check(each: Placed, jobs: Sequence[NewJob]) -> None:
    """Raise if it was refused.

    Raises:
        DuplicateJob: Its key is held, and it asks for an error then.
        PayloadTooLarge: What it would be merged to is too large.
    """
    if each.outcome in {"held", "too_large"}:
        raise _refusal(each, jobs[each.place - 1], of_many=len(jobs) > 1)


def rule_of_all(jobs: Sequence[NewJob]) -> Unique | None:
    """Find the rule of jobs of one kind, if they are, and skip or raise.

    Such jobs differ in ids, arguments, keys and gates only.
    """
    first = jobs[0].placement
    rule = first.unique
    if rule is None or rule.conflict == "replace" or not set(rule.states) >= _WAITING:
        return None
    kind = _kind(first)
    alike = all(
        (other := job.placement) is first
        or (other.unique is not None and _is_as(other.unique, rule) and _kind(other) == kind)
        for job in jobs
    )
    return rule if alike else None


def _is_as(rule: Unique, other: Unique) -> bool:
    return (
        rule.states == other.states
        and rule.seconds == other.seconds
        and rule.conflict == other.conflict
    )


# -- writing


def written(jobs: Iterable[NewJob], *, ask: bool = False) -> str:
    """Write jobs as a JSON array, each with its rule."""
    return _joined(_line(job, ask=ask) for job in jobs)


def written_short(jobs: Iterable[NewJob]) -> str:
    """Write as a JSON array what jobs of one kind have for themselves."""
    return _joined(map(_short_line, jobs))


def common(job: NewJob, unique: Unique) -> str:
    """Write what jobs of one kind have in common."""
    return rows.common(job, unique=_rule(unique, ask=False))


def texts(job: NewJob, unique: Unique) -> dict[str, object]:
    """Name what a job has that is due now, each as a text."""
    return {
        **rows.texts(job),
        "gate": job.placement.gate,
        "key": unique.key,
        "rule": _rule_text(
            unique.states, unique.seconds, unique.conflict, unique.merge, unique.limit
        ),
    }


def _line(job: NewJob, *, ask: bool) -> str:
    unique = job.placement.unique
    if unique is None:
        return rows.line(job)
    rule = _rule(unique, ask=ask)
    return rows.line(job, unique=rule if unique.key is None else {**rule, "key": unique.key})


def _short_line(job: NewJob) -> str:
    unique, gate = job.placement.unique, job.placement.gate
    key = None if unique is None else unique.key
    more = "" if key is None else f',"key":{json.dumps(key, ensure_ascii=False)}'
    more += "" if gate is None else f',"gate":{json.dumps(gate, ensure_ascii=False)}'
    return f'{{"id":"{job.id}","args":{job.args}{more}}}'


def _joined(lines: Iterable[str]) -> str:
    text = ",".join(lines)
    if len(text) > MOST_BYTES:
        raise PayloadTooLarge(
            f"Jobs with keys are stored by one statement, and these take more than "
            f"{MOST_BYTES:,} bytes together. Store them in several parts."
        )
    return f"[{text}]"


def _rule(unique: Unique, *, ask: bool) -> dict[str, Any]:
    rule: dict[str, Any] = {"states": unique.states, "conflict": unique.conflict}
    if unique.seconds is not None:
        rule["seconds"] = unique.seconds
    if ask:
        rule["ask"] = True
    elif merge := {name: how for name, how in unique.merge if not callable(how)}:
        rule |= {"merge": merge, "limit": unique.limit}
    return rule


@lru_cache(maxsize=256)
def _rule_text(
    states: tuple[str, ...],
    seconds: float | None,
    conflict: str,
    merge: tuple[tuple[str, Merger], ...],
    limit: int,
) -> str:
    """Write a rule; once for all jobs of a kind."""
    return json.dumps(_rule(Unique(None, states, seconds, conflict, merge, limit), ask=False))


def _refusal(placed: Placed, job: NewJob, *, of_many: bool) -> DuplicateJob | PayloadTooLarge:
    unique, task = job.placement.unique, job.placement.task
    where = f"Job {placed.place - 1} of the list: " if of_many else ""
    if placed.outcome == "too_large":
        limit = 0 if unique is None else unique.limit
        return PayloadTooLarge(
            f"{where}Merged with those of job {placed.job_id}, the arguments of {task} take more "
            f"than {limit:,} bytes. Merge less, or raise max_payload_bytes."
        )
    key = "these arguments" if unique is None or unique.key is None else f"the key {unique.key!r}"
    return DuplicateJob(
        f"{where}Job {placed.job_id} of {task} has {key} already. Leave this one out, or enqueue "
        "it with on_conflict='skip' or 'replace'.",
        job_id=placed.job_id,
    )
