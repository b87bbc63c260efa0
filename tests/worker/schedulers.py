"""Schedulers, each a process of its own, killed at random: `python -m tests.worker.schedulers`.

Arguments: URL, how many, and the seed of the chance. It forks them. With each line of its standard
input it kills one and starts another; when that ends it kills all.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from soniq import Soniq
from soniq.worker import embed
from soniq.worker.alone import Alone


def scheduler(url: str) -> None:
    app = Soniq(url, poll_interval=0.5)

    async def make() -> Alone:
        return Alone(app._database, app.registry, app.settings, app.bus)

    embed.run(make)


def start(url: str) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            scheduler(url)
        finally:
            os._exit(1)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main(url: str, number: int, seed: int) -> None:
    dice = random.Random(seed)
    pids = [start(url) for _ in range(number)]
    for _ in sys.stdin:
        time.sleep(dice.uniform(0, 0.02))  # anywhere in whatever they do
        victim = dice.randrange(number)
        kill(pids[victim])
        pids[victim] = start(url)
    for pid in pids:
        kill(pid)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
