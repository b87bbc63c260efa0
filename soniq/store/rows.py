"""How the statements that store new jobs name their values."""

from __future__ import annotations

import json
from datetime import datetime

from ..job.record import NewJob


def plain(job: NewJob) -> dict[str, object]:
    """Name what every job has."""
    placement = job.placement
    return {
        "id": job.id,
        "task": placement.task,
        "queue": placement.queue,
        "args": job.args,
        "priority": placement.priority,
        "max_attempts": placement.max_attempts,
    }


def texts(job: NewJob) -> dict[str, object]:
    """Name the same values, each as a text."""
    values = plain(job)
    values["priority"] = str(values["priority"])
    values["max_attempts"] = str(values["max_attempts"])
    return values


def due(moment: datetime | float | None) -> dict[str, object]:
    """Name when it is due: a moment, seconds from now, or neither."""
    later = isinstance(moment, int | float)
    return {"moment": None if later else moment, "delay": moment if later else None}


def parameters(job: NewJob) -> dict[str, object]:
    """Name all of a new job's values."""
    placement = job.placement
    return {
        **plain(job),
        "timeout": placement.timeout,
        "tags": None if placement.tags is None else list(placement.tags),
        "trace": placement.trace,
        "gate": placement.gate,
        **due(placement.due),
    }


def line(job: NewJob, **more: object) -> str:
    """Write one job as a JSON object; its arguments as they are, not parsed and written again.

    Args:
        job: The new job.
        **more: What the statement wants beside its values.
    """
    more = {"id": job.id, "gate": job.placement.gate, **more}
    return f'{common(job, **more)[:-1]}, "args": {job.args}}}'


def common(job: NewJob, **more: object) -> str:
    """Write what jobs of one kind have in common as a JSON object.

    Args:
        job: One of them.
        **more: What the statement wants beside that.
    """
    row = parameters(job)
    for own in ("id", "args", "gate"):
        del row[own]
    trace, moment = row.pop("trace") or "null", job.placement.due
    row["moment"] = moment.isoformat() if isinstance(moment, datetime) else None
    row |= more
    return f'{json.dumps(row, ensure_ascii=False)[:-1]}, "trace": {trace}}}'
