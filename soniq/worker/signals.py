"""The wire from SIGTERM, SIGINT and a supervisor to a worker."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from typing import Protocol

import anyio

from .companions import companions

log = logging.getLogger("soniq.worker")


class Runs(Protocol):
    """What can be run until it is stopped: a worker, or a scheduler alone."""

    started: anyio.Event

    async def run(self) -> int:
        """Run until stopped; answer the exit code."""
        ...

    def stop(self) -> None:
        """End; called again, at once."""
        ...

    async def close(self) -> None:
        """Close what is left in this event loop."""
        ...


async def run_with_signals(worker: Runs, supervisor: socket.socket | None = None) -> int:
    """Run a worker; the first signal drains it, the second cuts handlers short.

    Away from the main thread no signal can be received, so the worker runs without.

    Args:
        worker: The worker.
        supervisor: A line on which each byte is an order to stop; that it ends is one too.
    """
    if threading.current_thread() is not threading.main_thread():
        return await worker.run()
    orders = _Orders(worker)
    async with companions() as tasks:
        tasks.start_soon(_watch, orders)
        if supervisor is not None:
            tasks.start_soon(_obey, orders, supervisor)
        return await worker.run()


class _Orders:
    """Orders to stop, by signal and by line: what came by both is one."""

    def __init__(self, worker: Runs) -> None:
        self._worker = worker
        self._heard = {"signal": 0, "line": 0}
        self._passed_on = 0

    def take(self, way: str, number: int = 1) -> None:
        self._heard[way] += number
        while self._passed_on < max(self._heard.values()):
            self._passed_on += 1
            self._worker.stop()


async def _watch(orders: _Orders) -> None:
    wanted = [signal.SIGTERM, signal.SIGINT]
    if sys.platform == "win32":
        wanted = [signal.SIGINT]
    with anyio.open_signal_receiver(*wanted) as received:
        async for number in received:
            log.info("%s: stopping", signal.Signals(number).name)
            orders.take("signal")


async def _obey(orders: _Orders, supervisor: socket.socket) -> None:
    supervisor.setblocking(False)
    while True:
        await anyio.wait_readable(supervisor)
        if not (said := supervisor.recv(16)):
            log.warning("the supervisor is gone: stopping")
            orders.take("line")
            return
        log.info("told to stop")
        orders.take("line", len(said))
