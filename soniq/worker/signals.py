"""The wire from SIGTERM and SIGINT to a worker."""

from __future__ import annotations

import logging
import signal
import sys
import threading

import anyio

from .companions import companions
from .worker import Worker

log = logging.getLogger("soniq.worker")


async def run_with_signals(worker: Worker) -> int:
    """Run a worker; the first signal drains it, the second cuts handlers short.

    Away from the main thread no signal can be received, so the worker runs without.
    """
    if threading.current_thread() is not threading.main_thread():
        return await worker.run()
    async with companions() as tasks:
        tasks.start_soon(_watch, worker)
        return await worker.run()


async def _watch(worker: Worker) -> None:
    wanted = [signal.SIGTERM, signal.SIGINT]
    if sys.platform == "win32":
        wanted = [signal.SIGINT]
    with anyio.open_signal_receiver(*wanted) as received:
        async for number in received:
            log.info("%s: stopping", signal.Signals(number).name)
            worker.stop()
