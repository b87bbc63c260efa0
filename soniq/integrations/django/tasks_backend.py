"""The backend for Django's Tasks framework: a task of Django's is a task of Soniq's.

It is named by its path, so that lists, limits and workers tell one from another, and a worker
takes only what its release of the code has.
"""

# Django 5.2 has no tasks.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from django.apps import apps
from django.core.checks import Error
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import DEFAULT_TASK_BACKEND_ALIAS, Task, TaskResult, TaskResultStatus
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.tasks.signals import task_enqueued
from django.utils import timezone
from django.utils.json import normalize_json

from ...client.options import task_options
from ...errors import JobNotFound, UsageError
from ...job.options import checked_queue
from ...job.task import Task as SoniqsTask
from .task_results import result_of
from .task_runs import handler_of, tell_of_deaths

# What `@task(...)` takes beside Django's own, from Django 6.1 on; OPTIONS takes the same for all.
OPTIONS = (
    "max_retries",
    "retry_delay",
    "retry_backoff",
    "retry_max_delay",
    "retry_jitter",
    "timeout",
)

_declaring = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class SoniqTask(Task):
    """A task of Django's with Soniq's options; None leaves one to the backend's OPTIONS.

    Attributes:
        max_retries: Runs after the first; 0 unless said here or there.
        retry_delay: Seconds before each retry, or several of which the last repeats.
        retry_backoff: Double the delay from retry to retry.
        retry_max_delay: No delay is longer, in seconds.
        retry_jitter: Leave half of each delay to chance.
        timeout: Seconds a run may take.
        unique: At most one live job for the task and its arguments; an enqueue then answers the
            result of that one.
    """

    max_retries: int | None = None
    retry_delay: Any = None
    retry_backoff: bool | None = None
    retry_max_delay: float | None = None
    retry_jitter: bool | None = None
    timeout: float | None = None
    unique: bool | None = None

    def __post_init__(self) -> None:
        """Have the backend check it; tasks can be keys, so no field stays a list."""
        if isinstance(self.retry_delay, list):
            object.__setattr__(self, "retry_delay", tuple(self.retry_delay))
        Task.__post_init__(self)


class SoniqBackend(BaseTaskBackend):
    """`TASKS = {"default": {"BACKEND": "soniq.integrations.django.SoniqBackend"}}`."""

    task_class = SoniqTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def validate_task(self, task: Any) -> None:
        """Check a task, and let workers of this process know it.

        Raises:
            InvalidTask: It cannot be run here.
        """
        super().validate_task(task)
        try:
            checked_queue(task.queue_name)
            self._declare(task)
        except UsageError as error:
            raise InvalidTask(f"{task.module_path}: {error}") from error

    def enqueue(self, task: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> Any:
        """Store a call; inside an `atomic()` of the jobs' database it is part of it.

        Of a task with `unique` whose job is there already it answers that job's result.

        Raises:
            InvalidTask: The task cannot be run here.
            TypeError: An argument is not JSON.
        """
        self.validate_task(task)
        asked: dict[str, Any] = {
            "args": normalize_json(list(args)),
            "kwargs": normalize_json(kwargs),
        }
        job_id, is_new = self._store(task, asked)
        if not is_new:
            return self.get_result(job_id)
        result = TaskResult(
            task=task,
            id=job_id,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            **asked,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Look up what became of a call.

        Raises:
            TaskResultDoesNotExist: No call has that id, or its record was pruned.
        """
        try:
            job = _client().get_job(result_id)
        except (JobNotFound, UsageError) as error:
            raise TaskResultDoesNotExist(str(error)) from error
        return result_of(job)

    def check(self, **kwargs: Any) -> Any:
        """E005: the app is not installed. E006: OPTIONS has what no task takes."""
        if not apps.is_installed("soniq.integrations.django"):
            yield Error(
                f"TASKS[{self.alias!r}] needs 'soniq.integrations.django' in INSTALLED_APPS.",
                id="soniq.E005",
            )
        try:
            self._options(None)
        except UsageError as error:
            yield Error(f"TASKS[{self.alias!r}]['OPTIONS']: {error}", id="soniq.E006")

    def _declare(self, task: Any) -> None:
        client, options = _client(), self._options(task)
        with _declaring:
            _tell_of_deaths_once()
            known = client.registry.find(task.module_path)
            if known is None or getattr(known.function, "django_function", None) is not task.func:
                client.job(name=task.module_path, **options)(handler_of(task, type(self)))

    def _options(self, task: Any) -> dict[str, Any]:
        unknown = [name for name in self.options if name not in OPTIONS]
        if unknown:
            raise UsageError(f"There is no option {unknown[0]!r}. Known: {', '.join(OPTIONS)}.")
        given = {"max_retries": 0, **self.options}
        for name in (*OPTIONS, "unique"):
            if (value := getattr(task, name, None)) is not None:
                given[name] = value
        task_options(given)
        return given

    def _store(self, task: Any, asked: dict[str, Any]) -> tuple[str, bool]:
        """Store a call; answer its job's id, and whether it was not there before."""
        client = _client()
        known: SoniqsTask[..., Any] = client.registry.get(task.module_path)
        options: dict[str, Any] = {
            "queue": task.queue_name,
            "priority": soniqs_priority(task.priority),
            "max_retries": self._options(task)["max_retries"],
        }
        placed = dict(asked)
        if task.run_after is not None:
            options["scheduled_at"] = _aware(task.run_after)
            placed["run_after"] = options["scheduled_at"].isoformat()
        if task.priority:
            placed["priority"] = task.priority
        if self.alias != DEFAULT_TASK_BACKEND_ALIAS:
            placed["backend"] = self.alias
        if not getattr(task, "unique", None):
            return str(client.enqueue(known.options(**options), args=placed)), True
        # Of the call alone: when it runs, and before whom, is no part of what it is.
        options["dedup_key"] = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        made = client.enqueue_many(known.options(**options), [placed])
        return made[0], made.outcomes == ["enqueued"]


def soniqs_priority(priority: int) -> int:
    """Turn Django's, -100 to 100, the larger first, into Soniq's, the smaller first.

    0 is 100, which is what jobs have that ask for nothing, there and here. 1 is the first there
    is, so Django's 99 and 100 are one.
    """
    return max(1, 100 - int(priority))


def _aware(moment: Any) -> Any:
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


@cache
def _tell_of_deaths_once() -> None:
    from .clients import client

    tell_of_deaths(client())


def _client() -> Any:
    from .clients import client

    return client().sync
