"""The child processes that jobs with `executor="process"` run in, as their worker sees them.

A child is a Python of its own, started when it is first needed, that imports what declares the
tasks and then runs one job at a time. Whatever ends a job early (its timeout, a cancellation, the
worker's shutdown) kills the child and all it started, and another one follows.

`anyio.to_process` and `concurrent.futures` were looked at: the one cannot recycle a process without
failing a job, has no limit of memory and no death of the child with the worker; to the other a
process that dies breaks the whole pool.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteReceiveStream

from ..db.loops import on_trio
from ..errors import ProcessLost, SettingsError, UsageError
from ..job.record import Claimed
from ..job.task import real_module
from ..policy import restart
from ..settings import Settings
from .attempt import Attempt, Why
from .bench import Bench
from .parcels import Answer, Setup, receive_async, unpack, wrapped

log = logging.getLogger("soniq.worker")

in_child = False
"""Whether this process is one of the children; it must not become a worker by importing one."""

# Importing an application may take a while; one that takes longer hangs.
START_SECONDS = 60.0
CLOSE_SECONDS = 5.0

# Started so that it finds this Soniq, wherever the worker has it from.
_START = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
    "from soniq.worker.child import main; main()"
)


class Processes:
    """At most so many children; one job in each."""

    def __init__(self, bench: Bench, worker_id: str) -> None:
        _check(bench.settings)
        self._bench = bench
        self._worker_id = worker_id
        self._slots = anyio.Semaphore(bench.settings.job_processes or os.cpu_count() or 1)
        self._free: list[Child] = []
        self._leaving: list[Child] = []

    async def run(self, attempt: Attempt) -> str | None:
        """Run an attempt in a child; answer its result as JSON text.

        Raises:
            ProcessLost: The child died, or could not be started.
            BaseException: Whatever the handler raised.
        """
        async with self._slots:
            if self._bench.draining:  # it has not begun, and so goes back
                attempt.stop(Why.SHUTDOWN)
                await checkpoint()
            child = await self._take(attempt.job)
            try:
                attempt.start_clock()
                self._bench.wake_watchdog.ring()
                answer = await child.answer()
            except BaseException:
                await child.kill()
                raise
            attempt.written = answer.written
            with anyio.CancelScope(shield=True):
                await self._give_back(child, answer)
        if answer.error is not None:
            attempt.reported = True
            raise unpack(answer.error)
        return answer.result

    async def close(self) -> None:
        """End all children."""
        with anyio.CancelScope(shield=True):
            for child in [*self._free, *self._leaving]:
                await child.kill()

    async def _take(self, job: Claimed) -> Child:
        """Give a child that has begun the job; those that died while they were idle are buried."""
        while True:
            child = self._free.pop() if self._free else await Child.start(self._setup())
            try:
                if await child.begin(job):
                    return child
            except BaseException:
                await child.kill()
                raise
            await child.kill()

    async def _give_back(self, child: Child, answer: Answer) -> None:
        most = self._bench.settings.process_max_jobs
        if answer.worn or (most is not None and child.jobs >= most):
            await child.retire()
            self._leaving.append(child)
        else:
            self._free.append(child)
        for gone in [each for each in self._leaving if not each.lives]:
            self._leaving.remove(gone)
            await gone.kill()

    def _setup(self) -> Setup:
        from multiprocessing import current_process

        bench, hooks = self._bench, self._bench.hooks
        around = [*hooks.before, *hooks.after, *hooks.on_error, *hooks.middleware]
        tasks = [task.function for task in bench.registry if task.apart]
        # What is around jobs first: it makes ready what their modules need, as Django's apps.
        modules = dict.fromkeys(real_module(each) for each in [*around, *tasks])
        return Setup(
            path=tuple(sys.path),
            modules=tuple(modules),
            name=current_process().name,
            logs=bool(logging.getLogger("soniq").handlers),
            settings=bench.settings,
            worker_id=self._worker_id,
            backend="trio" if on_trio() else "asyncio",
        )


class Child:
    """One child process.

    Attributes:
        jobs: How many it was given.
    """

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a child has no pipes")
        self._process = process
        self._orders = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)
        self.jobs = 0

    @classmethod
    async def start(cls, setup: Setup) -> Child:
        """Start one, and wait until it is ready.

        Raises:
            ProcessLost: It died, hangs, or cannot import the application.
        """
        child = cls(await _open())
        try:
            with anyio.fail_after(START_SECONDS):
                answer = await child._exchange(setup)
        except TimeoutError:
            await child.kill()
            raise ProcessLost(
                f"A process for jobs was not ready after {START_SECONDS:g} s. Look for what the "
                f"application does while it is imported ({', '.join(setup.modules)})."
            ) from None
        except BaseException:
            await child.kill()
            raise
        if answer.error is not None:
            await child.kill()
            raise ProcessLost(
                f"A process for jobs could not import {', '.join(setup.modules)}: "
                f"{answer.error.said}"
            )
        return child

    @property
    def lives(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.returncode is None

    async def begin(self, job: Claimed) -> bool:
        """Have it run a job; answer whether it has begun, or was dead already.

        Raises:
            ProcessLost: It is a new one, and died.
        """
        self.jobs += 1
        # Not for ever: an earlier job may have left a thread behind that lets no other run.
        with anyio.move_on_after(START_SECONDS):
            try:
                await self._exchange(job)
            except ProcessLost:
                if self.jobs == 1:
                    raise
                return False
            return True
        return False

    async def answer(self) -> Answer:
        """Wait for the end of the job it has begun.

        Raises:
            ProcessLost: It died.
        """
        try:
            return await self._exchange()
        except ProcessLost:
            self._kill_group()  # what it has started may live on
            raise

    async def retire(self) -> None:
        """Let it end by itself, as it does when nothing more can come."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._orders.aclose()

    async def kill(self) -> None:
        """Kill it and all it started; returns when it has ended."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
            if self.lives:
                self._kill_group()
            await self._process.aclose()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    async def _exchange(self, *parcels: Any) -> Answer:
        try:
            for parcel in parcels:
                await self._send(wrapped(parcel))
            answer: Answer = await receive_async(self._answers)
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            code = await self._process.wait()
            raise ProcessLost(_lost(code)) from None
        return answer

    async def _send(self, parcel: bytes) -> None:
        try:
            await self._orders.send(parcel)
        except (ConnectionError, RuntimeError) as error:
            # What asyncio and uvloop say of a pipe without a reader; an older anyio passes it on.
            raise anyio.BrokenResourceError from error


async def _open() -> Process:
    try:
        return await anyio.open_process(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            # A session of its own, so that a terminal's Ctrl-C does not reach it, and so that what
            # it starts can be killed with it.
            start_new_session=True,
        )
    except OSError as error:
        raise ProcessLost(f"No process for jobs can be started: {error}") from error


def _check(settings: Settings) -> None:
    if in_child:
        raise UsageError(
            "A worker was started while a process for jobs imported the application. Put its start "
            "under `if __name__ == '__main__':`."
        )
    if settings.process_memory_limit is None or sys.platform == "linux":
        return
    raise SettingsError(
        "process_memory_limit works on Linux only. Leave it out here, or limit the worker from "
        "outside."
    )


def _lost(code: int) -> str:
    why = " (the system's memory may be used up)" if -code == signal.SIGKILL else ""
    return (
        f"The process that ran the attempt {restart.said(code)}{why}. The worker and its other "
        "jobs go on."
    )
