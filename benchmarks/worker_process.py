"""A worker in a process of its own, as `soniq worker` runs it, that tells what it uses.

    python -m benchmarks.worker_process URL [--jobs N] [--plain] [--concurrency 10] [--schema soniq]
        [--limits] [--around sync|async|django]

It says `ready` and `ended`, and answers the lines `usage` and `stop` of its standard input. With
`--jobs` it stops by itself when it has run so many.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .around import AROUND
from .process import say


def main() -> int:
    options = _options()
    if options.plain:  # as if the extra `speed` were not installed
        sys.modules["uvloop"] = sys.modules["orjson"] = None  # type: ignore[assignment]
    from soniq.worker import embed

    workers: list[Any] = []

    async def make() -> Any:
        workers.append(_worker(options))
        return workers[0]

    def ready(worker: Any, stop: Callable[[], None]) -> None:
        say("ready")
        _beside(_listen, stop)
        if options.jobs:
            _beside(_count, worker, options.jobs, stop)

    code = embed.run(make, ready=ready)
    say("ended", code=code, processed=workers[0].processed)
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--schema", default="soniq")
    parser.add_argument("--limits", action="store_true")
    parser.add_argument("--around", choices=tuple(AROUND), help="middleware of this kind")
    return parser.parse_args()


def _worker(options: argparse.Namespace) -> Any:
    from soniq.db.aio import Database
    from soniq.worker.worker import Worker

    from .tasks import application, limited

    eq = application(options.url).eq
    if options.limits:
        limited(eq)
    if options.around:
        AROUND[options.around](eq)
    settings = eq.settings.with_(concurrency=options.concurrency, schema=options.schema)
    database = Database(settings, url=lambda: options.url)
    return Worker(database, eq.registry, settings, hooks=eq.hooks, bus=eq.bus)


def _beside(function: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


def _listen(stop: Callable[[], None]) -> None:
    for line in sys.stdin:
        if line.strip() == "usage":
            say("usage")
        else:
            stop()


def _count(worker: Any, jobs: int, stop: Callable[[], None]) -> None:
    while worker.processed < jobs:
        time.sleep(0.02)
    stop()


if __name__ == "__main__":
    sys.exit(main())
