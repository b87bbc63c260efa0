"""Run what is ready: on the loop, in threads, in processes; and mind the deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ..db.loops import on_trio
from ..events import JobOverran, JobStarted
from ..job.outcome import (
    AlreadyWritten,
    CancelAsked,
    Ending,
    Interrupted,
    Raised,
    Returned,
    Signal,
    TimedOut,
)
from ..job.record import Claimed
from .attempt import Attempt, Why, kept
from .bench import Bench
from .calls import Calls, reraised_if_cancelled
from .crew import Crew
from .processes import Processes
from .threads import Threads
from .transaction import Lender

# A runner lets the other loops in after this long; handlers that never wait would else starve them.
TURN_SECONDS = 0.002


class Executor:
    """As many runners as there are slots; each takes one job after another.

    Runners stay, because a task per job costs more than a short job does. One whose handler changed
    a context variable is replaced, so that no job sees another's.
    """

    def __init__(self, bench: Bench, lender: Lender) -> None:
        self._bench = bench
        self._lender = lender
        self._calls = Calls(bench.hooks)
        settings = bench.settings
        limit = settings.threads or settings.concurrency
        self._threads = Threads(limit, bench.hooks.thread_end)
        self._processes = Processes(bench, lender.worker_id)
        self._crew = Crew(
            bench,
            self._threads,
            loopless=self._calls.loopless,
            begin=self._begin_in_crew,
            run=self._run_in_crew,
            end=self._end,
        )
        self._cancelled: type[BaseException] = Exception
        self._looks_at = float("inf")

    async def run(self) -> None:
        """Run until cancelled."""
        self._cancelled = anyio.get_cancelled_exc_class()
        self._threads.open()
        try:
            async with anyio.create_task_group() as runners:
                for _ in range(self._bench.settings.concurrency):
                    runners.start_soon(self._runner, runners)
        finally:
            self._threads.close()
            await self._processes.close()

    def leave_threads(self) -> None:
        """Stop waiting for threads that do not end; nothing is written about their jobs."""
        for attempt in list(self._bench.running.values()):
            attempt.left = True
            if attempt.scope is not None:
                attempt.scope.shield = False
                attempt.scope.cancel()

    async def _runner(self, runners: TaskGroup) -> None:
        """Run jobs until one of them spoils this task for the next, then let another follow.

        One cancel scope serves all jobs of a runner: a scope for each cost a fifth of a short job.
        """
        clean, cut, cancelling = copy_context(), None, _cancelling()
        with CancelScope() as scope:
            turn_began = time.monotonic()
            while copy_context() == clean and not scope.cancel_called:
                waits = not self._bench.ready
                job = await self._bench.next_job()
                if self._crew.takes(job):
                    await self._crew.work(job)
                    continue
                cut = self._begin(job, scope)
                ending = await self._ending(cut)
                self._end(cut, ending)
                cut = None
                # A handler may have cancelled this task itself, or have brought others to do so.
                if cancelling() or isinstance(getattr(ending, "error", None), self._cancelled):
                    break
                now = time.monotonic()
                if waits:
                    turn_began = now
                elif now - turn_began > TURN_SECONDS:
                    await checkpoint()
                    turn_began = now
        if cut is not None:
            self._end(cut, await self._cut_short(cut))
        if cancelling():
            with suppress(self._cancelled):  # it would end this task, and the group would follow
                await checkpoint()
        clean.run(runners.start_soon, self._runner, runners)

    def _begin(self, job: Claimed, scope: CancelScope) -> Attempt:
        attempt = self._attempt(job)
        attempt.scope = None if attempt.threaded else scope
        if self._is_due_first(attempt):
            self._bench.wake_watchdog.ring()
        if self._bench.bus.wants(JobStarted):
            self._say_started(job)
        return attempt

    def _say_started(self, job: Claimed) -> None:
        self._bench.bus.emit(JobStarted(job.id, job.task, job.queue, job.attempt))

    def _attempt(self, job: Claimed) -> Attempt:
        task = self._bench.registry.get(job.task)
        attempt = Attempt(job, task, self._lender, self._timeout(job, task.defaults))
        self._bench.running[job.id, job.attempt] = attempt
        return attempt

    def _is_due_first(self, attempt: Attempt) -> bool:
        """Tell whether the watchdog must be woken, because it would look too late."""
        if attempt.deadline is None or attempt.deadline >= self._looks_at:
            return False
        self._looks_at = attempt.deadline
        return True

    def _begin_in_crew(self, job: Claimed, scope: CancelScope) -> Attempt:
        attempt = self._attempt(job)
        attempt.scope = scope
        if self._is_due_first(attempt):
            self._threads.soon(self._bench.wake_watchdog.ring)
        if self._bench.bus.wants(JobStarted):
            self._threads.soon(partial(self._say_started, job))
        return attempt

    def _run_in_crew(self, attempt: Attempt) -> Ending:
        try:
            args, kwargs = attempt.arguments()
            result = self._calls.in_thread(attempt, args, kwargs)
            return self._after(attempt, self._kept(attempt, result))
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises ends its attempt
            ending = self._failure(attempt, error, told=attempt.why is not None)
            if _is_error(ending, error):
                self._calls.failed_in_thread(attempt, error)
            return ending

    def _end(self, attempt: Attempt, ending: Ending) -> None:
        bench = self._bench
        del bench.running[attempt.job.id, attempt.job.attempt]
        attempt.scope = None  # it is the next job's by now
        bench.finished += 1
        bench.tally[attempt.job.queue] += 1
        if not attempt.left:
            bench.end(attempt.job, attempt, ending)
        if bench.draining:
            bench.wake_phase.ring()

    def _timeout(self, job: Claimed, declared: Any) -> float | None:
        if job.timeout is not None:
            return job.timeout or None
        if declared.no_timeout:
            return None
        default = self._bench.settings.job_timeout
        return (declared.timeout if declared.timeout is not None else default) or None

    async def _ending(self, attempt: Attempt) -> Ending:
        try:
            return self._after(attempt, await self._call(attempt))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its attempt
            return await self._failed(attempt, error)
        except BaseException as error:  # noqa: BLE001 - the same
            await reraised_if_cancelled(error)
            return await self._failed(attempt, error)

    async def _cut_short(self, attempt: Attempt) -> Ending:
        if attempt.written:
            return AlreadyWritten()
        ending = _stopped(attempt)
        if isinstance(ending, TimedOut):
            await self._calls.failed(attempt, ending.error())
        return ending

    async def _call(self, attempt: Attempt) -> str | None:
        if attempt.task.apart:
            return await self._processes.run(attempt)
        args, kwargs = attempt.arguments()
        if attempt.threaded:
            function = partial(self._calls.in_thread, attempt, args, kwargs)
            result = await self._in_thread(attempt, function)
        elif self._calls.plain:
            result = await attempt.task.function(*args, **kwargs)
        else:
            result = await self._calls.on_loop(attempt, args, kwargs)
        return self._kept(attempt, result)

    def _kept(self, attempt: Attempt, result: object) -> str | None:
        return kept(attempt.job.task, result, self._bench.settings.max_payload_bytes)

    async def _in_thread(self, attempt: Attempt, function: Callable[[], Any]) -> Any:
        """Call in a thread, and wait whatever happens, until told to leave the thread behind."""
        run = partial(self._threads.run, function)
        with CancelScope(shield=True) as attempt.scope:
            return await self._calls.around_thread(attempt, run)

    def _after(self, attempt: Attempt, result: str | None) -> Ending:
        if attempt.written:
            return AlreadyWritten()
        # Too late, even if the handler went on and returned.
        if attempt.why is Why.TIMEOUT and not attempt.settled:
            return TimedOut(attempt.timeout or 0.0)
        return Returned(result)

    async def _failed(self, attempt: Attempt, error: BaseException) -> Ending:
        told = attempt.why is not None or anyio.current_effective_deadline() == float("-inf")
        ending = self._failure(attempt, error, told=told)
        if _is_error(ending, error):
            if self._calls.owes_thread(attempt) and not attempt.left:
                with CancelScope(shield=True) as attempt.scope:
                    await self._threads.run(partial(self._calls.failed_in_thread, attempt, error))
            with CancelScope(shield=True):
                await self._calls.failed(attempt, error)
        return ending

    def _failure(self, attempt: Attempt, error: BaseException, *, told: bool) -> Ending:
        if attempt.written:
            return self._after(attempt, None)
        # What fails because it was told to stop has not failed: a shutdown costs no attempt.
        obeys = attempt.why is Why.TIMEOUT or not isinstance(error, Signal)
        return _stopped(attempt) if told and obeys and not attempt.settled else Raised(error)

    # -- deadlines

    async def watch_deadlines(self) -> None:
        """Stop attempts that ran out of time; report threads that outlive that.

        One look over all running attempts at the next deadline costs less than a timer per job.
        """
        while True:
            now = time.monotonic()
            for attempt in list(self._bench.running.values()):
                if attempt.deadline is not None and attempt.deadline <= now:
                    self._out_of_time(attempt, now)
            pending = [
                attempt.deadline
                for attempt in list(self._bench.running.values())
                if attempt.deadline is not None and attempt.why is None
            ]
            self._looks_at = min(pending, default=float("inf"))
            wait = None if not pending else max(0.0, self._looks_at - time.monotonic())
            await self._bench.wake_watchdog.wait(wait)

    def _out_of_time(self, attempt: Attempt, now: float) -> None:
        attempt.stop(Why.TIMEOUT)
        if attempt.threaded and not attempt.overran:
            attempt.overran = True
            job = attempt.job
            self._bench.bus.emit(
                JobOverran(job.id, job.task, job.queue, job.attempt, now - attempt.started)
            )


def _cancelling() -> Callable[[], int]:
    """Give what tells whether a handler left a cancellation of its own behind for this task."""
    if on_trio():
        return lambda: 0
    task = asyncio.current_task()
    return lambda: 0 if task is None else task.cancelling()


def _is_error(ending: Ending, error: BaseException) -> bool:
    """Tell whether the error hooks are to hear of it."""
    return isinstance(ending, TimedOut | Raised) and not isinstance(error, Signal)


def _stopped(attempt: Attempt) -> Ending:
    match attempt.why:
        case Why.TIMEOUT:
            return TimedOut(attempt.timeout or 0.0)
        case Why.CANCEL:
            return CancelAsked()
        case _:
            return Interrupted()
