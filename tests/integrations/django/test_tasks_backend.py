"""The contract of Django's Tasks framework: each promise of its documentation, on our backend."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import django
import pytest

if django.VERSION < (6, 0):
    pytest.skip("Django 6.0 brought the framework", allow_module_level=True)

from django.core.checks import run_checks
from django.db import transaction
from django.tasks import TaskResultStatus, default_task_backend, task, task_backends
from django.tasks.exceptions import (
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultMismatch,
)
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.test import override_settings
from django.utils import timezone

from soniq import JobTimeout
from soniq.integrations.django import SoniqBackend, soniq_sync
from soniq.integrations.django.tasks_backend import soniqs_priority

from .shop import tasks

READY, RUNNING = TaskResultStatus.READY, TaskResultStatus.RUNNING
FAILED, SUCCESSFUL = TaskResultStatus.FAILED, TaskResultStatus.SUCCESSFUL


def work() -> None:
    """Run a worker until nothing is due; it has a loop and threads of its own."""
    assert soniq_sync.run_worker(run_once=True) == 0


def ended(result: Any) -> Any:
    work()
    result.refresh()
    return result


@contextmanager
def heard() -> Iterator[list[tuple[str, str, type]]]:
    """Collect the signals that are sent, the statuses at that moment, and the senders."""
    told: list[tuple[str, str, type]] = []
    signals = {"enqueued": task_enqueued, "started": task_started, "finished": task_finished}
    receivers = []
    for name, signal in signals.items():

        def receive(sender: type, task_result: Any, name: str = name, **kwargs: Any) -> None:
            told.append((name, str(task_result.status), sender))

        receivers.append(receive)
        signal.connect(receive)
    yield told
    for receive, signal in zip(receivers, signals.values(), strict=True):
        signal.disconnect(receive)


def test_it_says_what_it_can() -> None:
    assert isinstance(task_backends["default"], SoniqBackend)
    for name in ("defer", "async_task", "get_result", "priority"):
        assert getattr(default_task_backend, f"supports_{name}") is True


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_a_task_runs_and_its_result_is_found(name: str) -> None:
    before = timezone.now()
    result = getattr(tasks, name).enqueue(2, right=3)
    assert (result.status, result.is_finished, result.attempts) == (READY, False, 0)
    assert (result.args, result.kwargs, result.backend) == ([2], {"right": 3}, "default")
    assert len(result.id) < 64
    with pytest.raises(ValueError, match="not finished"):
        assert result.return_value
    ended(result)
    assert (result.status, result.is_finished, result.return_value) == (SUCCESSFUL, True, 5)
    assert before <= result.enqueued_at <= result.started_at <= result.finished_at
    assert result.last_attempted_at == result.started_at
    assert (result.attempts, len(result.worker_ids), result.errors) == (1, 1, [])


def test_a_result_is_found_by_its_id_and_task() -> None:
    result = tasks.add.enqueue(1)
    assert tasks.add.get_result(result.id) == result.task.get_result(result.id)
    assert default_task_backend.get_result(result.id).task == tasks.add
    with pytest.raises(TaskResultMismatch):
        tasks.echo.get_result(result.id)


@pytest.mark.parametrize("no_id", ["", "x" * 70, "not-an-id", "0" * 32, None, 7, "\0"])
def test_an_id_that_is_none_has_no_result(no_id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(no_id)


def test_a_job_that_is_no_task_of_djangos_has_no_result() -> None:
    job_id = soniq_sync.enqueue("shop.invoice", order_id=1)
    with pytest.raises(TaskResultDoesNotExist):
        default_task_backend.get_result(job_id)


def test_results_can_be_had_by_async_code() -> None:
    async def scenario() -> Any:
        result = await tasks.aadd.aenqueue(4)
        await asyncio.to_thread(work)
        await result.arefresh()
        assert (await tasks.aadd.aget_result(result.id)).return_value == 5
        with pytest.raises(TaskResultDoesNotExist):
            await default_task_backend.aget_result("nothing")
        return result.return_value

    assert asyncio.run(scenario()) == 5


def test_arguments_and_results_are_json_as_django_normalizes_it() -> None:
    result = tasks.echo.enqueue((1, (2,)), key=("a", None), flag=True)
    assert result.args == [[1, [2]]]
    assert result.kwargs == {"key": ["a", None], "flag": True}
    assert ended(result).return_value == [[[1, [2]]], {"key": ["a", None], "flag": True}]
    for bad in (object(), {1, 2}, datetime.now(UTC), lambda: None):
        with pytest.raises(TypeError):
            tasks.echo.enqueue(bad)


def test_what_is_no_json_cannot_be_returned() -> None:
    result = ended(tasks.unserialisable.enqueue())
    assert result.status == FAILED
    assert result.errors[0].exception_class is TypeError


@pytest.mark.parametrize("name", ["fail", "afail"])
def test_a_failure_is_told_with_its_error(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "django.tasks"):
        result = ended(getattr(tasks, name).enqueue("luck"))
    assert (result.status, result.is_finished, result.attempts) == (FAILED, True, 1)
    (error,) = result.errors
    assert (error.exception_class_path, error.exception_class) == (
        "builtins.LookupError",
        LookupError,
    )
    assert "raise LookupError" in error.traceback
    with pytest.raises(ValueError, match="failed"):
        assert result.return_value
    told = [each for each in caplog.records if each.name == "django.tasks"]
    (record,) = (each for each in told if each.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_the_class_of_an_error_of_ones_own_is_found() -> None:
    (error,) = ended(tasks.fail_with_own.enqueue()).errors
    assert error.exception_class is tasks.OutOfStock


def test_a_task_that_wants_to_end_the_process_only_fails() -> None:
    (error,) = ended(tasks.exit_process.enqueue()).errors
    assert error.exception_class is SystemExit


def test_a_task_may_take_its_context() -> None:
    result = tasks.tell.enqueue("hello")
    said = ended(result).return_value
    assert said == {
        "word": "hello",
        "attempt": 1,
        "id": result.id,
        "status": "RUNNING",
        "workers": result.worker_ids,
        "args": ["hello"],
    }
    assert ended(tasks.atell.enqueue()).return_value == 1


@pytest.mark.parametrize("name", ["second_time", "asecond_time"])
def test_a_task_that_is_retried_keeps_its_errors_and_workers(name: str) -> None:
    with heard() as told:
        result = ended(getattr(tasks, name).enqueue())
    assert (result.status, result.attempts, len(result.worker_ids)) == (SUCCESSFUL, 2, 2)
    assert [error.exception_class for error in result.errors] == [RuntimeError]
    assert result.started_at < result.last_attempted_at
    assert result.return_value in (2, [2, 1, "builtins.RuntimeError"])
    assert [each[:2] for each in told] == [
        ("enqueued", "READY"),
        ("started", "RUNNING"),
        ("started", "RUNNING"),
        ("finished", "SUCCESSFUL"),
    ]


def test_a_run_may_bend_its_course_as_any_job() -> None:
    snoozed = ended(tasks.snooze_for_long.enqueue())
    assert (snoozed.status, snoozed.attempts) == (READY, 0)
    assert ended(tasks.discard.enqueue()).status == FAILED


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_signals_are_sent_by_the_backends_class(name: str) -> None:
    with heard() as told:
        ended(getattr(tasks, name).enqueue(1))
    assert told == [
        ("enqueued", "READY", SoniqBackend),
        ("started", "RUNNING", SoniqBackend),
        ("finished", "SUCCESSFUL", SoniqBackend),
    ]
    with heard() as told:
        ended(tasks.fail.enqueue("luck"))
    assert told[-1] == ("finished", "FAILED", SoniqBackend)


def test_a_task_that_is_cancelled_while_it_runs_is_told_as_failed() -> None:
    result = tasks.for_ever.enqueue()
    finished = threading.Event()

    def cancel(**kwargs: Any) -> None:
        assert soniq_sync.cancel_job(result.id)

    def hear(**kwargs: Any) -> None:
        finished.set()

    task_started.connect(cancel)
    try:
        with heard() as told:
            task_finished.connect(hear)
            try:
                work()
                assert finished.wait(30)
            finally:
                task_finished.disconnect(hear)
    finally:
        task_started.disconnect(cancel)
    assert [each[:2] for each in told] == [("started", "RUNNING"), ("finished", "FAILED")]
    result.refresh()
    assert result.status == FAILED


@pytest.mark.parametrize("name", ["asleep", "late"])
def test_a_task_that_ran_out_of_time_is_told_as_failed(name: str) -> None:
    result = getattr(tasks, name).enqueue()
    finished = threading.Event()

    def hear(**kwargs: Any) -> None:
        finished.set()

    with heard() as told:
        task_finished.connect(hear)
        try:
            work()
            assert finished.wait(30)
        finally:
            task_finished.disconnect(hear)
    assert [each[:2] for each in told] == [("started", "RUNNING"), ("finished", "FAILED")]
    result.refresh()
    assert [error.exception_class for error in result.errors] == [JobTimeout]


def test_a_broken_receiver_harms_no_task(caplog: pytest.LogCaptureFixture) -> None:
    def broken(**kwargs: Any) -> None:
        raise RuntimeError("broken receiver")

    task_started.connect(broken)
    try:
        assert ended(tasks.add.enqueue(1)).return_value == 2
    finally:
        task_started.disconnect(broken)
    assert "broken receiver" in caplog.text


def test_it_can_be_deferred() -> None:
    later = timezone.now() + timedelta(hours=1)
    result = tasks.add.using(run_after=later).enqueue(1)
    assert soniq_sync.get_job(result.id).scheduled_at == later
    assert ended(result).status == READY
    assert default_task_backend.get_result(result.id).task.run_after == later
    past = tasks.add.using(run_after=timezone.now() - timedelta(hours=1)).enqueue(1)
    assert ended(past).status == SUCCESSFUL
    with pytest.raises(InvalidTask):
        tasks.add.using(run_after=datetime(2040, 1, 1))  # noqa: DTZ001


def test_a_larger_priority_runs_first() -> None:
    ran = []

    def note(task_result: Any, **kwargs: Any) -> None:
        ran.append(task_result.task.priority)

    task_started.connect(note)
    try:
        for priority in (0, -100, 100, 5, -5, 50):
            tasks.add.using(priority=priority).enqueue(1)
        soniq_sync.run_worker(concurrency=1, run_once=True)
    finally:
        task_started.disconnect(note)
    assert ran == [100, 50, 5, 0, -5, -100]


def test_priorities_keep_their_order_and_0_is_the_default_of_jobs() -> None:
    mapped = [soniqs_priority(each) for each in range(-100, 101)]
    assert mapped == sorted(mapped, reverse=True)
    assert len(set(mapped)) == 200  # Django's 99 and 100 are one
    assert (soniqs_priority(0), min(mapped), max(mapped)) == (100, 1, 200)


@pytest.mark.parametrize("bad", [101, -101, 1.5])
def test_a_priority_out_of_range_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidTask):
        tasks.add.using(priority=bad)


def test_using_changes_a_copy() -> None:
    twin = tasks.echo.using(priority=-3, queue_name="other")
    assert (tasks.echo.priority, tasks.echo.queue_name) == (7, "mail")
    job = soniq_sync.get_job(twin.enqueue().id)
    assert (job.queue, job.priority, job.max_attempts) == ("other", 103, 1)
    found = default_task_backend.get_result(job.id).task
    assert (found.priority, found.queue_name) == (-3, "other")


def test_queues_are_those_of_the_backend() -> None:
    with pytest.raises(InvalidTask, match="not valid"):
        tasks.add.using(backend="reports")
    result = tasks.add.using(backend="reports", queue_name="reports").enqueue(1)
    assert result.backend == "reports"
    assert soniq_sync.get_job(result.id).max_attempts == 2  # its OPTIONS
    assert task_backends["default"].get_result(result.id).backend == "reports"
    assert ended(result).return_value == 2


def test_what_was_enqueued_outlives_a_change_of_the_settings() -> None:
    """It failed in the worker, and get_result() raised what is no TaskResultDoesNotExist."""
    moved = tasks.add.using(queue_name="old").enqueue(1)
    gone = tasks.add.using(backend="reports", queue_name="reports").enqueue(2)
    left = {"BACKEND": "soniq.integrations.django.SoniqBackend", "QUEUES": ["default", "mail"]}
    with override_settings(TASKS={"default": left}):
        work()
        found = [default_task_backend.get_result(each.id) for each in (moved, gone)]
    assert [(each.status, each.return_value) for each in found] == [
        (SUCCESSFUL, 2),
        (SUCCESSFUL, 3),
    ]
    assert [each.task.queue_name for each in found] == ["old", "reports"]
    assert [each.backend for each in found] == ["default", "reports"]


def test_a_queue_that_cannot_be_is_refused_when_it_is_named() -> None:
    with pytest.raises(InvalidTask, match="queue"):
        tasks.add.using(queue_name="x" * 1000)


def test_only_module_level_functions_are_tasks() -> None:
    with pytest.raises(InvalidTask):

        @task
        def inner() -> None: ...

    with pytest.raises(InvalidTask):
        task(lambda: None)


def test_a_context_needs_its_parameter() -> None:
    with pytest.raises(InvalidTask, match="context"):
        task(takes_context=True)(tasks.add.func)


def test_a_task_can_be_called_here_and_now() -> None:
    assert tasks.add.call(1) == tasks.aadd.call(1) == 2
    assert asyncio.run(tasks.add.acall(1)) == 2
    assert soniq_sync.list_jobs() == []


def test_a_rolled_back_transaction_leaves_no_task(stored: Callable[[], int]) -> None:
    with transaction.atomic():
        result = tasks.add.enqueue(1)
        assert default_task_backend.get_result(result.id).status == READY
        transaction.set_rollback(True)
    assert stored() == 0
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()
    with transaction.atomic():
        transaction.on_commit(lambda: tasks.add.enqueue(2) and None)
    assert stored() == 1


def test_an_async_task_uses_the_orm() -> None:
    assert ended(tasks.count_orders.enqueue()).return_value == 0


def test_every_instance_of_the_backend_shares_one_pool() -> None:
    instances = {SoniqBackend("default", {}), SoniqBackend("reports", {"QUEUES": []})}
    for backend in instances:
        backend.enqueue(tasks.add, [1], {})
    with soniq_sync.backend.acquire() as connection:
        pids = connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'soniq'"
            " AND datname = current_database()"
        )
    assert (len(instances), pids) == (2, 1)


def test_checks_find_what_is_wrong() -> None:
    assert not [each for each in run_checks() if each.id.startswith("soniq.")]
    wrong = {"BACKEND": "soniq.integrations.django.SoniqBackend", "OPTIONS": {"max_retrys": 1}}
    with override_settings(TASKS={"default": wrong}):
        assert "soniq.E006" in [each.id for each in run_checks()]


def test_the_task_is_a_job_by_its_path() -> None:
    result = tasks.add.enqueue(1)
    job = soniq_sync.get_job(result.id)
    assert (job.task, job.args) == (tasks.add.module_path, {"args": [1], "kwargs": {}})


def test_a_running_task_says_so(witness: Callable[..., Any]) -> None:
    result = tasks.add.enqueue(1)
    worker = "00000000-0000-7000-8000-000000000001"
    witness(
        "UPDATE soniq.jobs SET state = 'processing', worker_id = CAST(%s AS uuid), attempt = 1,"
        " started_at = statement_timestamp()",
        worker,
    )
    result.refresh()
    assert (result.status, result.worker_ids, result.attempts) == (RUNNING, [worker], 1)
    assert result.started_at is not None


if django.VERSION >= (6, 1):

    def test_task_options_reach_the_job(tmp_path: Any) -> None:
        result = tasks.third_time.enqueue(str(tmp_path / "runs"))
        job = soniq_sync.get_job(result.id)
        assert job.max_attempts == 3
        assert (ended(result).return_value, result.attempts, len(result.errors)) == (3, 3, 2)

    @pytest.mark.parametrize("bad", [{"max_retries": -1}, {"retry_delay": "soon"}, {"timeout": -1}])
    def test_bad_task_options_are_refused(bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidTask):
            task(**bad)(tasks.exit_process.func)

    def test_a_task_can_be_pickled() -> None:
        twin = pickle.loads(pickle.dumps(tasks.third_time))
        assert twin == tasks.third_time
        assert twin.max_retries == 2

    def test_a_unique_task_is_enqueued_once_for_the_same_arguments() -> None:
        with heard() as told:
            first = tasks.once.enqueue(1, by="me")
            again = tasks.once.using(priority=9).enqueue(1, by="me")
            late = tasks.once.using(run_after=timezone.now() + timedelta(days=1))
            assert late.enqueue(1, by="me").id == again.id == first.id
            others = [tasks.once.enqueue(2, by="me"), tasks.once.enqueue(1)]
        assert (again.status, again.args, again.kwargs) == (READY, [1], {"by": "me"})
        assert [name for name, *_ in told] == ["enqueued"] * 3
        assert len({first.id, *(result.id for result in others)}) == 3
        assert ended(first).return_value == 1
        assert tasks.once.enqueue(1, by="me").id != first.id

    def test_a_unique_task_goes_with_the_transaction() -> None:
        with transaction.atomic():
            first = tasks.once.enqueue(1)
            assert tasks.once.enqueue(1).id == first.id
            transaction.set_rollback(True)
        assert tasks.once.enqueue(1).id != first.id

    def test_unique_is_true_or_false() -> None:
        with pytest.raises(InvalidTask, match="unique is True or False"):
            task(unique="by order")(tasks.exit_process.func)
