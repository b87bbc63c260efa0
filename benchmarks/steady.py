"""A steady thousand jobs a second, enqueued one by one and run by one worker beside it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .pickup import Stamps
from .process import Program
from .report import percentile
from .server import Target
from .tasks import Application, application

RATE = 1000
CLIENTS = 4


@dataclass
class Stream:
    """What a while of steady work showed.

    Attributes:
        seconds: How long it was produced.
        moments: Of each job: the second it was enqueued at, and milliseconds until it started.
        usages: What the worker used, told once a second.
    """

    seconds: float
    moments: list[tuple[float, float]] = field(default_factory=list)
    usages: list[dict[str, Any]] = field(default_factory=list)

    def part(self, first: float, last: float) -> Stream:
        """Take the jobs between two shares of their number, in the order of their enqueue."""
        number = len(self.moments)
        moments = sorted(self.moments)[int(first * number) : int(last * number) + 1]
        return Stream(moments[-1][0] - moments[0][0], moments)

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return len(self.moments) / max(self.seconds, 0.001)

    def late(self, share: float) -> float:
        """Milliseconds below which this share of the jobs began after their enqueue."""
        return percentile([late for _, late in self.moments], share)


def stream(
    target: Target,
    seconds: float,
    beside: Callable[[], object] | None = None,
    *,
    kinds: Callable[[Application], Sequence[Any]] = lambda app: [app.stamp],
) -> Stream:
    """Produce and consume for so long.

    Args:
        target: Where.
        seconds: How long.
        beside: Called once when it has begun.
        kinds: What is enqueued, in turns.
    """
    with tempfile.TemporaryDirectory() as folder:
        stamps = Stamps(Path(folder, "stamps"))
        with Program("worker_process", target.url, env=stamps.env) as worker:
            if beside is not None:
                beside()
            usages: list[dict[str, Any]] = []
            began = time.time_ns()
            app = application(target.url, pool_max_size=CLIENTS)
            tell = partial(_note, worker, usages)
            sent = asyncio.run(_produce(app, kinds(app), seconds, tell))
            started = stamps.wait(len(sent))
            worker.stop()
    moments = [((at - began) / 1e9, (started[i] - at) / 1e6) for i, at in sent.items()]
    return Stream(seconds, moments, usages)


def _note(worker: Program, usages: list[dict[str, Any]]) -> None:
    usages.append(worker.usage())


async def _produce(
    app: Application, kinds: Sequence[Any], seconds: float, tell: Callable[[], object]
) -> dict[int, int]:
    sent: dict[int, int] = {}
    end = time.monotonic() + seconds

    async def client(first: int) -> None:
        i = first
        due = time.monotonic()
        while due < end:
            await app.eq.enqueue(kinds[i % len(kinds)], i=i)
            sent[i] = time.time_ns()
            i += CLIENTS
            due += CLIENTS / RATE
            if due > (now := time.monotonic()):
                await asyncio.sleep(due - now)

    async def teller() -> None:
        while time.monotonic() < end:
            await asyncio.to_thread(tell)
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as clients:
        clients.create_task(teller())
        for number in range(CLIENTS):
            clients.create_task(client(number))
    await app.eq.close()
    return sent
