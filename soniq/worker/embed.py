"""Run a worker from code that has no event loop: it gets one of its own."""

from __future__ import annotations

import importlib.util
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from ..errors import UsageError
from .companions import companions
from .signals import Runs, run_with_signals

log = logging.getLogger("soniq.worker")

W = TypeVar("W", bound=Runs)


def run(
    make: Callable[[], Awaitable[W]],
    *,
    signals: bool = True,
    supervisor: socket.socket | None = None,
    backend: str = "asyncio",
    ready: Callable[[W, Callable[[], None]], None] | None = None,
) -> int:
    """Run a worker to its end; answer its exit code.

    Args:
        make: Makes the worker; called within the new event loop.
        signals: Whether SIGTERM and SIGINT stop it.
        supervisor: A line on which a supervisor stops it too.
        backend: `asyncio`, with uvloop if that is installed, or `trio`.
        ready: Told of the worker and of a way to stop it from any other thread, once it runs.

    Raises:
        UsageError: An event loop runs in this thread already.
    """
    _refuse_within_a_loop()
    return anyio.run(
        _main, make, signals, supervisor, ready, backend=backend, backend_options=_options(backend)
    )


def _refuse_within_a_loop() -> None:
    try:
        anyio.get_cancelled_exc_class()
    except RuntimeError:  # what anyio raises where no loop runs
        return
    raise UsageError(
        "This worker would run an event loop of its own, and one runs in this thread. Await "
        "run_worker() of the async client (Soniq), or call this from another thread."
    )


async def _main(
    make: Callable[[], Awaitable[W]],
    signals: bool,
    supervisor: socket.socket | None,
    ready: Callable[[W, Callable[[], None]], None] | None,
) -> int:
    worker = await make()
    try:
        async with companions() as tasks:
            if ready is not None:
                tasks.start_soon(_announce, worker, ready)
            return await (run_with_signals(worker, supervisor) if signals else worker.run())
    finally:
        # The loop ends here, and with it whatever the worker's pool holds open.
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            await worker.close()


async def _announce(worker: W, ready: Callable[[W, Callable[[], None]], None]) -> None:
    await worker.started.wait()
    token = anyio.lowlevel.current_token()

    def stop() -> None:
        anyio.from_thread.run_sync(worker.stop, token=token)

    ready(worker, stop)


def _options(backend: str) -> dict[str, Any]:
    if backend == "asyncio" and importlib.util.find_spec("uvloop") is not None:
        return {"use_uvloop": True}
    return {}
