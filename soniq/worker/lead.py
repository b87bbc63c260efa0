"""Do what one worker at a time should do, while this one holds the lease."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from ..db.session import Session
from ..errors import AccessDenied, DatabaseError
from ..store import leaders
from .bench import Bench

log = logging.getLogger("soniq.worker")

DUTY = "upkeep"

# Between a duty's fault and its next try.
PAUSE_SECONDS = 1.0

# A duty that ran for so long had found its database again: its next fault is a new one.
STEADY_SECONDS = 60.0

Loop = Callable[[], Awaitable[None]]


class Leader:
    """Takes the lease when it is free, and runs the duties until it is lost."""

    def __init__(self, bench: Bench, session: Session, duties: Sequence[Loop]) -> None:
        self._bench = bench
        self._session = session
        self._duties = duties
        # With the others' third of it this is over before a dead leader's jobs may be rescued.
        self._lease = max(1.0, bench.settings.heartbeat_timeout * 2 / 3)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            if await self._lead():
                await self._serve()
            await anyio.sleep(self._lease / 3)

    async def resign(self) -> None:
        """Give the lease up, so that nobody waits for its end."""
        await self._session.run(leaders.resign(DUTY, self._bench.id).__iter__)

    async def _serve(self) -> None:
        """Run the duties side by side, renewing the lease; end when it cannot be renewed."""
        self._bench.leading = True
        try:
            await self._serve_while_leading()
        finally:
            self._bench.leading = False

    async def _serve_while_leading(self) -> None:
        async with anyio.create_task_group() as duties:
            for duty in self._duties:
                duties.start_soon(self._steadily, duty)
            renewed = time.monotonic()
            while time.monotonic() - renewed < self._lease:
                await anyio.sleep(self._lease / 2)
                if await self._lead():
                    renewed = time.monotonic()
            duties.cancel_scope.cancel()

    async def _lead(self) -> bool:
        query = leaders.lead(DUTY, self._bench.id, self._lease)
        try:
            return bool(await self._session.run(query.__iter__))
        except DatabaseError as error:
            log.debug("no lease for %s: %s", DUTY, error)
            return False

    async def _steadily(self, duty: Loop) -> None:
        """Run one duty; after a fault of the database, run it again.

        A fault that stays is told once: a role that may not do what a duty does never may.
        """
        told: type[DatabaseError] | None = None
        while True:
            began = time.monotonic()
            try:
                await duty()
            except DatabaseError as error:
                stays = type(error) is told and time.monotonic() - began < STEADY_SECONDS
                log.log(logging.DEBUG if stays else logging.WARNING, _told(error))
                told = type(error)
                await anyio.sleep(PAUSE_SECONDS)


def _told(error: DatabaseError) -> str:
    if isinstance(error, AccessDenied):
        return (
            f"this worker's role may not do all of the upkeep: {error} History is tended by "
            "workers whose role owns the schema; run one, or give this role the owner's rights."
        )
    return f"upkeep waits for the database: {error}"
