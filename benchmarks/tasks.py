"""The jobs that are measured, and the application they belong to."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

from soniq import Soniq

STAMPS = "SONIQ_BENCHMARK_STAMPS"
"""The variable that names the file where `stamp` notes its moments."""


class Application(NamedTuple):
    """A client, and its tasks."""

    eq: Soniq
    noop: Any
    noop_sync: Any
    stamp: Any


def application(url: str, **settings: Any) -> Application:
    """Make the application of one benchmark."""
    eq = Soniq(database_url=url, **settings)
    path = os.environ.get(STAMPS, os.devnull)
    stamps = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @eq.job(name="noop")
    async def noop(i: int) -> None: ...

    @eq.job(name="noop_sync")
    def noop_sync(i: int) -> None: ...

    @eq.job(name="stamp")
    async def stamp(i: int) -> None:
        os.write(stamps, b"%d %d\n" % (i, time.time_ns()))

    return Application(eq, noop, noop_sync, stamp)


def limited(eq: Soniq) -> dict[str, Any]:
    """Declare tasks with limits as well; by their names."""

    @eq.job(name="one_a_key", concurrency=1, concurrency_key="i")
    async def one_a_key(i: int) -> None: ...

    @eq.job(name="in_order", ordered_by="i")
    async def in_order(i: int) -> None: ...

    @eq.job(name="in_turn", fair_by="i")
    async def in_turn(i: int) -> None: ...

    @eq.job(name="thousand", concurrency=1000)
    async def thousand(i: int) -> None: ...

    @eq.job(name="rated", rate_limit="1000000/s")
    async def rated(i: int) -> None: ...

    return {task.name: task for task in (one_a_key, in_order, in_turn, thousand, rated)}
