"""Running a task of Django's as a job: its context, its signals, and what it answers."""

# Django 5.2 has no tasks.
# pyright: reportMissingImports=false

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable
from inspect import iscoroutinefunction
from threading import Thread
from traceback import format_exception
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.tasks.base import DEFAULT_TASK_BACKEND_ALIAS, TaskContext, TaskError, TaskResult
from django.tasks.base import TaskResultStatus as Status
from django.tasks.exceptions import TaskResultDoesNotExist
from django.tasks.signals import task_finished, task_started
from django.utils import timezone
from django.utils.json import normalize_json

from ...errors import SoniqError
from ...events import JobCancelled, JobDied
from ...job.context import JobContext
from ...job.outcome import Raised, Signal
from ...job.record import Job
from ...policy.lifecycle import Bury, Drop, judge
from ...worker.attempt import Why
from .task_results import errors_of, first_start, moment, placed, result_of, workers_of

log = logging.getLogger("soniq.worker")

# Jobs whose failure was signalled where it happened, until their death is written.
_said: set[str] = set()


def tell_of_deaths(client: Any) -> None:
    """Send `task_finished` also for tasks that could not: out of time, cancelled, worker lost."""

    def died(event: JobDied | JobCancelled) -> None:
        task = client.registry.find(event.task)
        sender = getattr(getattr(task, "function", None), "django_sender", None)
        if event.job_id in _said:
            _said.discard(event.job_id)
        elif sender is not None:
            # Receivers may use the database, and an event comes where nobody may wait.
            Thread(target=_tell, args=(client, sender, event.job_id)).start()

    client.bus.subscribe(JobDied, died)
    client.bus.subscribe(JobCancelled, died)


def _tell(client: Any, sender: type, job_id: str) -> None:
    try:
        result = result_of(client.sync.get_job(job_id))
        task_finished.send_robust(sender, task_result=result)
    except (SoniqError, TaskResultDoesNotExist):
        log.exception("nobody was told that the task of job %s has failed", job_id)
    finally:
        connections.close_all()


def handler_of(task: Any, sender: type) -> Callable[..., Any]:
    """Make the job's handler for a task.

    Args:
        task: Of Django's.
        sender: The backend's class, which signals come from.
    """

    def run(ctx: JobContext, **asked: Any) -> Any:
        result = _begun(task, ctx, asked, _earlier(ctx))
        task_started.send_robust(sender, task_result=result)
        try:
            raw = task.func(*_arguments(task, result), **result.kwargs)
            in_time = _succeeded(result, ctx, raw)
        except BaseException as error:
            if _failed(result, ctx, error):
                task_finished.send_robust(sender, task_result=result)
            raise
        if in_time:
            task_finished.send_robust(sender, task_result=result)
        return result._return_value

    async def arun(ctx: JobContext, **asked: Any) -> Any:
        earlier = await sync_to_async(_earlier)(ctx) if ctx.attempt > 1 else None
        result = _begun(task, ctx, asked, earlier)
        await _send(task_started, sender, result)
        try:
            raw = await task.func(*_arguments(task, result), **result.kwargs)
            in_time = _succeeded(result, ctx, raw)
        except BaseException as error:
            if _failed(result, ctx, error):
                await _send(task_finished, sender, result)
            raise
        if in_time:
            await _send(task_finished, sender, result)
        return result._return_value

    handler: Any = arun if iscoroutinefunction(task.func) else run
    # The name of the task in errors and logs; `module` is where a process for jobs finds it.
    handler.__module__ = task.func.__module__
    handler.__qualname__ = task.func.__qualname__
    handler.django_function = task.func
    handler.django_sender = sender
    return handler  # type: ignore[no-any-return]


async def _send(signal: Any, sender: type, result: TaskResult) -> None:
    # Not by asend_robust(): on Django 6.0 it calls receivers in a task that does not have the error
    # in sys.exc_info(), where Django's own receiver looks for it.
    await sync_to_async(signal.send_robust)(sender, task_result=result)


def _earlier(ctx: JobContext) -> Job | None:
    """Read what became of earlier runs, if there were any."""
    if ctx.attempt == 1:
        return None
    from .clients import client

    return client().sync.get_job(ctx.job_id)


def _begun(task: Any, ctx: JobContext, asked: dict[str, Any], earlier: Job | None) -> TaskResult:
    now = timezone.now()
    return TaskResult(
        task=placed(task, ctx.queue, asked),
        id=ctx.job_id,
        status=Status.RUNNING,
        enqueued_at=moment(ctx.created_at),
        started_at=now if earlier is None else moment(first_start(earlier)),
        last_attempted_at=now,
        finished_at=None,
        args=asked["args"],
        kwargs=asked["kwargs"],
        backend=asked.get("backend", DEFAULT_TASK_BACKEND_ALIAS),
        errors=[] if earlier is None else errors_of(earlier),
        worker_ids=[ctx.worker_id] if earlier is None else workers_of(earlier),
    )


def _arguments(task: Any, result: TaskResult) -> list[Any]:
    context = [TaskContext(task_result=result)] if task.takes_context else []
    return [*context, *result.args]


def _succeeded(result: TaskResult, ctx: JobContext, raw: Any) -> bool:
    """Note what a task returned; tell whether it was in time, for it counts as failed if not."""
    if isinstance(raw, Signal):
        raise raw
    _set(result, _return_value=normalize_json(raw))
    _set(result, status=Status.SUCCESSFUL, finished_at=timezone.now())
    run: Any = ctx.run
    return run.why is not Why.TIMEOUT


def _failed(result: TaskResult, ctx: JobContext, error: BaseException) -> bool:
    """Note an error; tell whether the task has finished by it."""
    # A run that was told to stop has not failed by itself: what becomes of it is decided elsewhere.
    if ctx.cancelled or isinstance(error, CancelledError | GeneratorExit):
        return False
    run: Any = ctx.run
    options = run.task.defaults
    verdict = judge(Raised(error), run.job, options, draw=0.0, snooze_max=run.job.snoozes + 1)
    if not isinstance(error, Signal):
        kind = type(error)
        path = f"{kind.__module__}.{kind.__qualname__}"
        text = "".join(format_exception(error))
        result.errors.append(TaskError(exception_class_path=path, traceback=text))
    if not isinstance(verdict, Bury | Drop):
        _set(result, status=Status.READY)
        return False
    _set(result, status=Status.FAILED, finished_at=timezone.now())
    _said.add(ctx.job_id)
    return True


def _set(result: TaskResult, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(result, name, value)
