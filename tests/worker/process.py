"""A worker in a process of its own, to be killed: `python -m tests.worker.process URL SETTINGS`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import anyio

from soniq import Soniq
from soniq.job import JobContext

app = Soniq(sys.argv[1] if __name__ == "__main__" else "postgresql://nowhere")


@app.job(name="hold", max_retries=3)
async def hold(ctx: JobContext) -> int:
    if ctx.attempt == 1:
        await anyio.sleep(60)
    return ctx.attempt


@app.job(name="hold_thread", max_retries=3)
def hold_thread(ctx: JobContext) -> int:
    if ctx.attempt == 1:
        time.sleep(60)
    return ctx.attempt


@app.job(name="poison", max_retries=1)
def poison(ctx: JobContext) -> None:
    if ctx.attempt == 1:
        os._exit(1)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    from soniq.worker import embed
    from soniq.worker.worker import Worker

    from .conftest import hired

    settings = json.loads(sys.argv[2])

    async def make() -> Worker:
        return hired(app, **settings)

    return embed.run(make, backend=sys.argv[3])


if __name__ == "__main__":
    sys.exit(main())
