"""Threads that run one `def` job after another without asking the event loop for each.

A thread goes through Python's global lock, and a hop to the loop and back costs more than a short
job does. So a thread that ends a job takes the next one itself, and the loop hears of many endings
at once. It keeps the slot of the runner that began, and gives it up when no such job is next.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial

from anyio import CancelScope

from ..job.outcome import Ending
from ..job.record import Claimed
from .attempt import Attempt
from .bench import Bench
from .threads import Threads


class Crew:
    """The way of `def` jobs that need the loop for nothing around them.

    Args:
        bench: Where jobs are taken from.
        threads: What they run in.
        loopless: Whether no hook and no middleware is `async def`.
        begin: Starts an attempt; called in any thread.
        run: Runs it to its ending; called in its thread.
        end: Takes the ending; called in the loop.
    """

    def __init__(
        self,
        bench: Bench,
        threads: Threads,
        *,
        loopless: bool,
        begin: Callable[[Claimed, CancelScope], Attempt],
        run: Callable[[Attempt], Ending],
        end: Callable[[Attempt, Ending], None],
    ) -> None:
        self._bench = bench
        self._threads = threads
        self._loopless = loopless
        self._begin = begin
        self._run = run
        self._end = end

    def takes(self, job: Claimed) -> bool:
        """Tell whether a job goes this way."""
        task = self._bench.registry.get(job.task)
        return self._loopless and not (task.is_async or task.apart)

    async def work(self, job: Claimed) -> None:
        """Run a job and those that follow it, until told to leave the thread behind."""
        with CancelScope(shield=True) as scope:
            await self._threads.run(partial(self._toil, self._begin(job, scope), scope))

    def _toil(self, attempt: Attempt | None, scope: CancelScope) -> None:
        """Run in the thread."""
        while attempt is not None:
            # A context for each, so that no job sees the variables another one set.
            ending = copy_context().run(self._run, attempt)
            self._threads.soon(partial(self._end, attempt, ending))
            attempt = None if attempt.left else self._next(scope)

    def _next(self, scope: CancelScope) -> Attempt | None:
        bench = self._bench
        with bench.hands:  # whoever asks what the worker holds finds it ready or running
            if bench.draining or not bench.ready or not self.takes(bench.ready[0]):
                return None
            attempt = self._begin(bench.ready.popleft(), scope)
            if len(bench.ready) == bench.low:
                self._threads.soon(bench.wake_fetch.ring)
            return attempt
