"""A worker beside other code: in a task of the same loop, or in a thread with a loop of its own."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio

from . import embed
from .worker import Worker


@asynccontextmanager
async def beside(worker: Worker) -> AsyncIterator[Worker]:
    """Run a worker in a task for the length of the block, then drain it.

    Raises:
        SoniqError: The worker could not start.
    """
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.started.wait()
            try:
                yield worker
            except Exception as error:  # noqa: BLE001  raised below: here the group would wrap it
                failure = error
            worker.stop()
    except* Exception as failed:  # noqa: BLE001  the same
        failure = failed.exceptions[0] if len(failed.exceptions) == 1 else failed
    if failure is not None:
        raise failure


@contextmanager
def in_thread(make: Callable[[], Awaitable[Worker]]) -> Iterator[Worker]:
    """Run a worker in a thread for the length of the block, then drain it.

    Args:
        make: Makes the worker; called in the thread's event loop.

    Raises:
        SoniqError: The worker could not start.
    """
    thread = _WorkerThread(make)
    thread.start()
    worker, stop = thread.wait_until_running()
    try:
        yield worker
    finally:
        with suppress(RuntimeError):  # it ended before, by a failure
            stop()
        thread.join()
    if thread.failure is not None:
        raise thread.failure


class _WorkerThread(threading.Thread):
    def __init__(self, make: Callable[[], Awaitable[Worker]]) -> None:
        super().__init__(name="soniq-worker", daemon=True)
        self._make = make
        self._settled = threading.Event()
        self._running: tuple[Worker, Callable[[], None]] | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            embed.run(self._make, signals=False, ready=self._ready)
        except BaseException as error:  # noqa: BLE001  raised in the thread that started it
            self.failure = error
        finally:
            self._settled.set()

    def wait_until_running(self) -> tuple[Worker, Callable[[], None]]:
        self._settled.wait()
        if self._running is None:
            self.join()
            raise self.failure or RuntimeError("the worker ended before it ran")
        return self._running

    def _ready(self, worker: Worker, stop: Callable[[], None]) -> None:
        self._running = (worker, stop)
        self._settled.set()
