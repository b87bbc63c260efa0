"""From a job to what Django's Tasks framework tells of it."""

# Django 5.2 has no tasks.
# pyright: reportMissingImports=false

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.conf import settings
from django.tasks.base import DEFAULT_TASK_BACKEND_ALIAS, Task, TaskError, TaskResult
from django.tasks.base import TaskResultStatus as Status
from django.tasks.exceptions import TaskResultDoesNotExist
from django.utils import timezone
from django.utils.module_loading import import_string

from ...job.record import Attempt, Job, JobStatus

_STATUS = {
    JobStatus.SCHEDULED: Status.READY,
    JobStatus.QUEUED: Status.READY,
    JobStatus.PROCESSING: Status.RUNNING,
    JobStatus.DONE: Status.SUCCESSFUL,
    JobStatus.CANCELLED: Status.FAILED,
    JobStatus.DEAD_LETTER: Status.FAILED,
}

# Errors of Soniq's own making have no traceback.
_OURS = {"timed_out": "soniq.errors.JobTimeout", "worker_lost": "soniq.errors.JobError"}


def result_of(job: Job) -> TaskResult:
    """Tell of a job as a TaskResult.

    Raises:
        TaskResultDoesNotExist: It is no call of a task of Django's.
    """
    task = _task(job.task)
    if task is None or not {"args", "kwargs"} <= job.args.keys():
        raise TaskResultDoesNotExist(f"Job {job.id} is a call of {job.task}, no task of Django's.")
    result = TaskResult(
        task=placed(task, job.queue, job.args),
        id=job.id,
        status=_STATUS[job.status],
        enqueued_at=moment(job.created_at),
        started_at=moment(first_start(job)),
        finished_at=moment(job.finished_at),
        last_attempted_at=moment(job.started_at or _last_start(job)),
        args=job.args["args"],
        kwargs=job.args["kwargs"],
        backend=job.args.get("backend", DEFAULT_TASK_BACKEND_ALIAS),
        errors=errors_of(job),
        worker_ids=workers_of(job),
    )
    object.__setattr__(result, "_return_value", job.result)
    return result


def placed(task: Any, queue: str, args: Mapping[str, Any]) -> Any:
    """Give the task as it was enqueued.

    Not by `using()`, which checks it anew: TASKS may have changed since, and what was taken then
    is run, and can be looked up, even so.
    """
    run_after = args.get("run_after")
    chosen = {
        "priority": args.get("priority", 0),
        "queue_name": queue,
        "run_after": None if run_after is None else moment(datetime.fromisoformat(run_after)),
        "backend": args.get("backend", DEFAULT_TASK_BACKEND_ALIAS),
    }
    made = object.__new__(type(task))
    for each in fields(task):
        value = chosen[each.name] if each.name in chosen else getattr(task, each.name)
        object.__setattr__(made, each.name, value)
    return made


def errors_of(job: Job) -> list[TaskError]:
    """List what the runs failed with, in order."""
    return [_error(each) for each in job.attempts if each.error or each.outcome in _OURS]


def workers_of(job: Job) -> list[str]:
    """List who ran it, once for each run that counts."""
    workers = [str(each.worker_id) for each in job.attempts]
    if job.status in {JobStatus.PROCESSING, JobStatus.DONE} and job.worker_id is not None:
        workers.append(job.worker_id)
    return workers


def first_start(job: Job) -> datetime | None:
    """Tell when its first run began."""
    return job.attempts[0].started_at if job.attempts else job.started_at


def moment(value: datetime | None) -> datetime | None:
    """Give a moment as USE_TZ has it."""
    if value is None or settings.USE_TZ:
        return value
    return timezone.make_naive(value)  # type: ignore[no-any-return]


def _last_start(job: Job) -> datetime | None:
    return job.attempts[-1].started_at if job.attempts else None


def _task(path: str) -> Any:
    try:
        found = import_string(path)
    except ImportError:
        return None
    return found if isinstance(found, Task) else None


def _error(attempt: Attempt) -> TaskError:
    text = attempt.traceback or attempt.error or ""
    return TaskError(exception_class_path=_class_path(attempt), traceback=text)


def _class_path(attempt: Attempt) -> str:
    """Find the error's class where Python writes it: at the start of the traceback's last line."""
    name = (attempt.error or "").partition(":")[0]
    if not attempt.traceback and attempt.outcome in _OURS:
        return _OURS[attempt.outcome]
    written = rf"^((?:\w+\.)*{re.escape(name)})(?=:|$)"
    lines = re.findall(written, attempt.traceback or "", re.MULTILINE)
    path = lines[-1] if lines else name
    return path if "." in path else f"builtins.{path}"
