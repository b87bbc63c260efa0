"""Connections that are ended, and a server that crashes."""

from __future__ import annotations

import signal

import anyio

from ..stand import Stand
from ._scenario import scenario

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
      AND pid <> pg_backend_pid()
    ORDER BY random() LIMIT 1"""


@scenario(3, hurts=("terminated",), short=4, long=60)
async def terminate(stand: Stand) -> None:
    """pg_terminate_backend at random, five a second, producers included: nothing runs twice."""
    crew = await stand.crew(3)
    async with stand.producing() as producers:
        while producers.alive:
            await stand.ask(TERMINATE)
            stand.ledger.fault("terminated")
            await anyio.sleep(0.2)
    await stand.settled()
    await stand.dismiss(*crew)


@scenario(4, hurts=("crashed",), short=6, long=80)
async def crash(stand: Stand) -> None:
    """PostgreSQL stopped at once and started again: the living keep their jobs, none runs twice."""
    patient = {"heartbeat_timeout": 10}
    crew = await stand.crew(3, **patient)
    async with stand.producing() as producers:
        while producers.alive:
            await anyio.sleep(1.2)
            stand.ledger.fault("crashed")
            await anyio.to_thread.run_sync(stand.server.stop, signal.SIGQUIT)
            await anyio.sleep(0.3)
            await anyio.to_thread.run_sync(stand.server.start)
    await stand.settled()
    await stand.dismiss(*crew)
