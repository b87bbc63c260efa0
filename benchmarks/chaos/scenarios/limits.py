"""A server that is full, read-only, impatient, or forbids."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import anyio
import psycopg

from soniq import Soniq
from soniq.errors import DatabaseTimeout

from ..postgres import DATABASE
from ..stand import Stand
from ._scenario import scenario

# The least that an application and its workers need; upkeep of history's partitions wants more.
GRANTS = """
    CREATE ROLE app LOGIN;
    GRANT USAGE ON SCHEMA soniq TO app;
    GRANT ALL ON ALL TABLES IN SCHEMA soniq, public TO app;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA soniq TO app"""
WRITES = "INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA soniq"
HOLD_SECONDS = 1.5
ROUND_SECONDS = 9.0

Trouble = Callable[[Stand], AbstractAsyncContextManager[None]]


@scenario(8, hurts=("no connections", "impatient", "read-only", "forbidden"), short=8, long=80)
async def limits(stand: Stand) -> None:
    """No connection left, a statement timeout, a read-only server, a role without rights."""
    await stand.ask(GRANTS)
    stand.url = stand.server.url(user="app")
    await _see_that_an_exhausted_pool_says_so(stand)
    crew = await stand.crew(2)
    troubles: dict[str, tuple[Trouble, str]] = {
        "no connections": (_no_connections, "TransientError"),
        "impatient": (_impatient, "DatabaseTimeout"),
        "read-only": (_read_only, "ReadOnlyServer"),
        "forbidden": (_forbidden, "AccessDenied"),
    }
    async with stand.producing():
        for _ in range(max(1, round(stand.seconds / ROUND_SECONDS))):
            for name, (trouble, _) in troubles.items():
                stand.ledger.fault(name)
                async with trouble(stand):
                    await anyio.sleep(HOLD_SECONDS)
                await anyio.sleep(0.7)
    await stand.settled()
    await stand.dismiss(*crew)
    told = {said.partition(":")[0] for said in stand.book().unknown.values()}
    for name, (_, error) in troubles.items():
        if error not in told and name != "no connections":  # those who have one are not hurt
            stand.problems.append(f"{name}: no producer got a {error}; they got {sorted(told)}")


@asynccontextmanager
async def _no_connections(stand: Stand) -> AsyncIterator[None]:
    """Take what is left, and end what the others have, so that they ask for more."""
    taken: list[psycopg.Connection] = []
    try:
        while len(taken) < 200:
            try:
                taken.append(psycopg.connect(stand.server.url(user="app")))
            except psycopg.OperationalError:
                if any(not each.closed for each in taken):
                    break
        await stand.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'soniq'"
        )
        yield
    finally:
        for connection in taken:
            connection.close()


@asynccontextmanager
async def _impatient(stand: Stand) -> AsyncIterator[None]:
    """A table that is locked, and a server that lets nobody wait long for it."""
    stand.server.configure(statement_timeout="100ms")
    with psycopg.connect(stand.server.url(), autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        with connection.transaction():
            connection.execute("LOCK TABLE soniq.jobs IN ACCESS EXCLUSIVE MODE")
            yield
    stand.server.configure(statement_timeout="0")


@asynccontextmanager
async def _read_only(stand: Stand) -> AsyncIterator[None]:
    stand.server.configure(default_transaction_read_only="on")
    yield
    stand.server.configure(default_transaction_read_only="off")


@asynccontextmanager
async def _forbidden(stand: Stand) -> AsyncIterator[None]:
    await stand.ask(f"REVOKE {WRITES} FROM app")
    yield
    await stand.ask(f"GRANT {WRITES} TO app")


async def _see_that_an_exhausted_pool_says_so(stand: Stand) -> None:
    narrow = Soniq(database_url=stand.url, pool_max_size=1, pool_timeout=0.2)
    async with narrow:
        async with narrow.backend.acquire():
            try:
                await narrow.get_queue_stats()
            except DatabaseTimeout as error:
                if "pool_max_size" not in str(error):
                    stand.problems.append(f"an exhausted pool says only: {error}")
            else:
                stand.problems.append("a pool of one gave a second connection")
        await narrow.get_queue_stats()


# -- a full disk


def _no_small_disk() -> str | None:
    if os.geteuid() != 0:
        return "a small tmpfs can be mounted by root only"
    folder = tempfile.mkdtemp(prefix="soniq-disk-")
    try:
        tried = subprocess.run(_mount(folder, "1m"), capture_output=True, check=False)
        if tried.returncode:
            return f"no tmpfs can be mounted here: {tried.stderr.decode().strip()}"
        subprocess.run(["umount", folder], check=False)
    finally:
        Path(folder).rmdir()
    return None


def _mount(folder: str, size: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", folder]


@scenario(8, hurts=("full",), short=5, long=60, needs=_no_small_disk)
async def disk(stand: Stand) -> None:
    """A tablespace on a small disk that runs full, and is emptied again."""
    folder = stand.site.open_folder("disk")
    subprocess.run(_mount(str(folder), "100m"), check=True)
    stand.afterwards.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    stand.site.own(folder)
    stand.server.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
    stand.server.execute(f"ALTER DATABASE {DATABASE} SET TABLESPACE small")
    crew = await stand.crew(2)
    async with stand.producing() as producers:
        while producers.alive:
            await anyio.sleep(1)
            stand.ledger.fault("full")
            await anyio.to_thread.run_sync(_fill, folder / "filler")
            await anyio.sleep(HOLD_SECONDS)
            (folder / "filler").unlink()
    await stand.settled()
    await stand.dismiss(*crew)
    told = {
        said.partition(":")[0]
        for said in stand.book().unknown.values()
        # What psycopg says when callers make a connection of their own is none of ours.
        if not said.startswith("OperationalError: connection failed: ")
    }
    if "TransientError" not in told or not told <= {"TransientError", "DiskFull"}:
        stand.problems.append(f"of a full disk, producers were told {sorted(told)}")


def _fill(file: Path) -> None:
    """Take all there is, down to the last page."""
    with suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
