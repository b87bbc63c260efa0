"""A pair of servers that change places under load."""

from __future__ import annotations

import signal

import anyio

from ..postgres import Server
from ..stand import Stand, Unsettled, until
from ._scenario import scenario

IN_STEP = "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
# Whoever asks the demoted server anything leaves it for the refusal, at once. Who asks nothing any
# more stays and harms nobody, as does a listener until its next probe, half a minute later.
STILL_THERE = """
    SELECT state, query FROM pg_stat_activity
    WHERE application_name = 'soniq' AND query NOT LIKE 'LISTEN%' AND query_start > '{since}'"""
LEAVE_SECONDS = 20.0


@scenario(5, hurts=("crashed", "demoted"), short=8, long=80)
async def failover(stand: Stand) -> None:
    """A synchronous standby takes over, after a crash and after a demotion that leaves sessions."""
    first, second = stand.server, await _standby_of(stand, stand.server)
    hosts = f"{first.folder},{second.folder}"
    stand.url = first.url(host=hosts, target_session_attrs="read-write")
    patient = {"heartbeat_timeout": 15}
    crew = await stand.crew(3, **patient)
    async with stand.producing():
        await anyio.sleep(stand.seconds / 4)
        stand.ledger.fault("crashed")
        await anyio.to_thread.run_sync(first.stop, signal.SIGQUIT)
        await _promote(stand, second)
        await anyio.sleep(stand.seconds / 8)
        await _standby_of(stand, second, first)
        await anyio.sleep(stand.seconds / 8)
        stand.ledger.fault("demoted")
        since = await _demote(second, first)
        await _promote(stand, first)
        await _see_that_everybody_leaves(second, since)
    await stand.settled()
    await stand.dismiss(*crew)
    await anyio.to_thread.run_sync(second.stop, signal.SIGQUIT)


async def _standby_of(stand: Stand, primary: Server, place: Server | None = None) -> Server:
    """Add a standby whose receipt every commit waits for from then on."""
    server = await anyio.to_thread.run_sync(stand.site.standby, primary, place)
    await anyio.to_thread.run_sync(server.start)
    primary.configure(synchronous_standby_names="*")
    await until(lambda: primary.execute(IN_STEP) == [(True,)], 20, "the standby is in step")
    return server


async def _promote(stand: Stand, server: Server) -> None:
    await anyio.to_thread.run_sync(server.execute, "SELECT pg_promote()")
    stand.server = server


async def _demote(primary: Server, standby: Server) -> str:
    """Take no more writes, as a managed service does that keeps the sessions of the old primary.

    Answers since when.
    """
    primary.configure(default_transaction_read_only="on")
    # What has begun may write, and would wait for ever for a standby that is one no more.
    begun = f"SELECT count(*) FROM pg_stat_activity WHERE xact_start < '{_now(primary)}'"
    await until(lambda: primary.execute(begun) == [(0,)], 20, "what had begun to write has ended")
    since = _now(primary)
    at = primary.execute("SELECT pg_current_wal_flush_lsn()")[0][0]
    caught_up = f"SELECT pg_last_wal_replay_lsn() >= CAST('{at}' AS pg_lsn)"
    await until(lambda: standby.execute(caught_up) == [(True,)], 20, "the standby has caught up")
    return since


def _now(server: Server) -> str:
    return str(server.execute("SELECT CAST(clock_timestamp() AS text)")[0][0])


async def _see_that_everybody_leaves(demoted: Server, since: str) -> None:
    left: list[object] = []

    def gone() -> bool:
        left[:] = demoted.execute(STILL_THERE.format(since=since))
        return not left

    try:
        await until(gone, LEAVE_SECONDS, "nobody is left on the demoted server", every=0.1)
    except Unsettled as error:
        raise Unsettled(f"{error}, but {left}") from None
