"""The threads that `def` jobs run in: started as needed, kept, and never waited for at exit.

A general thread pool hops to the loop and back with a future, a scope and a wake for each call; for
short jobs that is most of the cost. Here threads take calls from a queue and put the ended ones in
another, and the loop is woken once for all that ended since it last looked.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any

import anyio

from ..db.loops import on_trio


class _Call:
    """One function on its way through a thread."""

    __slots__ = ("context", "ended", "error", "function", "result")

    def __init__(self, context: Context, function: Callable[[], Any]) -> None:
        self.context = context
        self.function = function
        self.ended = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.context.run(self.function)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self.error = error


class Threads:
    """At most so many threads, for one event loop.

    Args:
        limit: Calls that run at once; others wait their turn.
        at_end: Called in each thread before it ends.
    """

    def __init__(self, limit: int, at_end: Sequence[Callable[[], object]] = ()) -> None:
        self._limit = limit
        self._at_end = at_end
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._news: deque[Callable[[], object]] = deque()
        self._started = 0
        self._busy = 0
        self._woken = False
        self._soon: Callable[[Callable[[], None]], object] | None = None

    def open(self) -> None:
        """Belong to the event loop that runs this."""
        self._soon = _from_other_threads()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Call a function in a thread, in a copy of this task's context; answer what it returns.

        If the wait is cancelled, the thread is left behind: nobody can stop it.
        """
        call = _Call(copy_context(), function)
        self._busy += 1
        if self._busy > self._started < self._limit:
            self._started += 1
            # A daemon: a thread that never ends must not keep the process from ending.
            threading.Thread(target=self._work, name="soniq-job", daemon=True).start()
        self._calls.put(call)
        await call.ended.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def close(self) -> None:
        """Let the threads end as they come free."""
        for _ in range(self._started):
            self._calls.put(None)

    def soon(self, function: Callable[[], object]) -> None:
        """Have a function called in the loop, from one of these threads; it must not raise."""
        self._news.append(function)
        if not self._woken and self._soon is not None:
            self._woken = True
            # The loop may be gone: this thread was left behind.
            with suppress(Exception):
                self._soon(self._deliver)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            self.soon(partial(self._free, call))
        for function in self._at_end:
            function()

    def _free(self, call: _Call) -> None:
        self._busy -= 1
        call.ended.set()

    def _deliver(self) -> None:
        # First, so that what comes from now on wakes the loop again.
        self._woken = False
        while self._news:
            self._news.popleft()()


def _from_other_threads() -> Callable[[Callable[[], None]], object]:
    """Give what has a function called soon in this loop, from any thread."""
    if on_trio():
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    return asyncio.get_running_loop().call_soon_threadsafe
