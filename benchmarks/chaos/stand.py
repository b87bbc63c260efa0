"""Where a scenario takes place: a server, workers, producers, and the account afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from . import account, application, ledger, postgres
from .account import Account, Record
from .ledger import Book
from .postgres import Server, Site

ROOT = Path(__file__).parents[2]
WORKER = ("-m", "soniq", "worker")
APP = "benchmarks.chaos.application:app"
PRODUCER = ("-m", "benchmarks.chaos.producer")

# Short enough that rescues happen within a scenario, long enough for a busy machine.
SETTINGS: Mapping[str, object] = {
    "concurrency": 8,
    "heartbeat_interval": 0.5,
    "heartbeat_timeout": 3,
    "poll_interval": 0.5,
    "shutdown_timeout": 5,
    "sync_grace": 5,
    "pool_timeout": 5,
    "log_format": "json",
}


class Unsettled(Exception):
    """What a scenario waited for did not happen."""


class Hand:
    """One process under the harness: a worker, or a producer.

    Attributes:
        log: What it wrote to its standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    async def ended(self, seconds: float) -> int:
        """Wait for its end; answer its exit code."""
        try:
            return await until(self.process.poll, seconds, f"process {self.pid} ended")
        except Unsettled as error:
            said = "\n    ".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise Unsettled(f"{error}; it said:\n    {said}") from None

    def said(self) -> list[str]:
        """The messages of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line)["message"] for line in lines if line.startswith("{")]


class Stand:
    """What a scenario needs.

    Args:
        site: Where its servers are made.
        jobs: How many jobs producers bring in.
        seconds: Time they are spread over.
        folder: For the ledger and the logs.

    Attributes:
        url: The database, for workers and producers.
        server: Where that is; the account is taken there.
        afterwards: What to do when everything was stopped.
    """

    def __init__(self, site: Site, jobs: int, seconds: float, folder: Path) -> None:
        self.site, self.jobs, self.seconds, self.folder = site, jobs, seconds, folder
        self.ledger = ledger.Ledger(folder / "ledger")
        self.server: Server = site.server()
        self.url = self.server.url()
        self.problems: list[str] = []
        self.hands: list[Hand] = []
        self.afterwards = ExitStack()

    # -- processes

    def run(
        self, *command: str, url: str | None = None, env: Mapping[str, str] | None = None,
        cwd: Path = ROOT, **settings: object,
    ) -> Hand:  # fmt: skip
        """Start a program of ours in a process of its own."""
        log = self.folder / f"{len(self.hands)}.log"
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SONIQ_")},
            "PYTHONPATH": str(cwd),
            "SONIQ_DATABASE_URL": url or self.url,
            application.VARIABLE: str(self.ledger.path),
            **{f"SONIQ_{key.upper()}": str(value) for key, value in settings.items()},
            **(env or {}),
        }
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=cwd, env=variables, stderr=errors
            )
        hand = Hand(process, log)
        self.hands.append(hand)
        return hand

    def hire(self, app: str = APP, **more: Any) -> Hand:
        """Start a worker; `ready` waits for it."""
        return self.run(*WORKER, app, **{**SETTINGS, **more})

    async def crew(self, count: int, **more: Any) -> list[Hand]:
        """Start workers, and wait until all of them run."""
        hands = [self.hire(**more) for _ in range(count)]
        for hand in hands:
            await self.ready(hand)
        return hands

    async def ready(self, hand: Hand, seconds: float = 30) -> None:
        """Wait until a worker has signed in."""
        line = f'"pid": {hand.pid}, "worker"'.encode()

        def signed_in() -> bool:
            if not hand.alive:
                raise Unsettled(f"a worker ended at once: {hand.log.read_text()[-1000:]}")
            return line in self.ledger.path.read_bytes()

        await until(signed_in, seconds, f"worker {hand.pid} is ready")

    @asynccontextmanager
    async def producing(self, **more: Any) -> AsyncIterator[Hand]:
        """Run producers beside the block, and wait for their end after it."""
        given = {"pool_timeout": 5, **more}
        hand = self.run(*PRODUCER, str(self.jobs), str(self.seconds), **given)
        yield hand
        code = await hand.ended(self.seconds * 4 + 60)
        if code:
            self.problems.append(f"the producers failed: {hand.log.read_text()[-1000:]}")

    async def kill(self, *hands: Hand) -> None:
        """End processes as the kernel does."""
        since = time.monotonic()
        for hand in hands:
            hand.process.kill()
        for hand in hands:
            await hand.ended(10)
            self.ledger.fault("killed", hand.pid, since=since)

    def freeze(self, hand: Hand) -> None:
        self.ledger.fault("frozen", hand.pid)
        hand.process.send_signal(signal.SIGSTOP)

    def thaw(self, hand: Hand) -> None:
        self.ledger.fault("thawed", hand.pid)
        hand.process.send_signal(signal.SIGCONT)

    def terminate(self, hand: Hand) -> None:
        self.ledger.fault("stopped", hand.pid)
        hand.process.terminate()

    async def dismiss(self, *hands: Hand, seconds: float = 30) -> None:
        """Stop workers as a deploy does, and see that they end well."""
        for hand in hands:
            self.terminate(hand)
        for hand in hands:
            if code := await hand.ended(seconds):
                said = hand.log.read_text()[-500:]
                self.problems.append(f"worker {hand.pid} ended with {code}: {said}")

    # -- the end

    async def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database, as the superuser."""
        return await anyio.to_thread.run_sync(self.server.execute, sql, postgres.DATABASE)

    async def settled(self, seconds: float = 30) -> None:
        """Wait until no job is left to run; a problem of the account is when none ends for so long.

        A busy machine may take minutes for what it was too busy to run before.
        """
        fewest, since = await self._left(), time.monotonic()
        while fewest and time.monotonic() - since < seconds:
            await anyio.sleep(0.1)
            if (left := await self._left()) < fewest:
                fewest, since = left, time.monotonic()
        if fewest:
            self.problems.append(f"no job ended within {seconds:g} s, and {fewest} are left")

    async def _left(self) -> int:
        return int((await self.ask("SELECT count(*) FROM soniq.jobs"))[0][0])

    def book(self) -> Book:
        """Read the ledger."""
        return ledger.read(self.ledger.lines())

    async def account(self) -> Account:
        """Hold the ledger against the database."""
        records = [Record(*row) for row in await self.ask(account.ROWS)]
        orders = [key for (key,) in await self.ask(account.ORDERS)]
        taken = account.balance(self.book(), records, orders)
        taken.problems[:0] = self.problems
        return taken

    def close(self) -> None:
        """End whatever still runs."""
        for hand in self.hands:
            if hand.alive:
                hand.process.kill()
                hand.process.wait()
        self.server.stop(signal.SIGQUIT)
        self.afterwards.close()


async def until(
    fact: Callable[[], Any | Awaitable[Any]], seconds: float, what: str, every: float = 0.02
) -> Any:
    """Wait for a fact; None and False are none.

    Raises:
        Unsettled: It was not one in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = fact()
        if isinstance(found, Awaitable):
            found = await found
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise Unsettled(f"not within {seconds:g} s: {what}")
        await anyio.sleep(every)
