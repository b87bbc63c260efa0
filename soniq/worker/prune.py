"""Forget what has been kept long enough or is held by nobody, and make room for what will come."""

from __future__ import annotations

import time

import anyio

from ..db.session import Session
from ..store import gates, history, keys
from .bench import Bench

# Partitions are a day wide and made three days ahead: an hour is often enough.
PAUSE_SECONDS = 3600.0

# After some keys it rests so many times as long as they took: millions of them are walked over in
# minutes, and what jobs need of the server is theirs.
REST_TIMES = 9


class Pruner:
    """Tends history's partitions, the dead letters, and the keys of unique jobs and of limits."""

    def __init__(self, bench: Bench, session: Session) -> None:
        self._bench = bench
        self._session = session

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            DatabaseError: For whoever leads to handle.
        """
        settings = self._bench.settings
        while True:
            await self._session.run(history.tend, settings.result_ttl)
            if settings.dead_letter_ttl is not None:
                prune = history.prune_dead_letters(settings.dead_letter_ttl)
                while len(await self._session.run(prune.__iter__)) == 1000:
                    pass
            await self._prune_keys()
            while len(await self._session.run(gates.prune().__iter__)) == 1000:
                pass
            await anyio.sleep(PAUSE_SECONDS)

    async def _prune_keys(self) -> None:
        """Walk over all keys, some in each transaction, and rest in between."""
        seen = keys.START
        while not seen.is_last:
            began = time.monotonic()
            (seen,) = await self._session.run(keys.prune(seen).__iter__)
            await anyio.sleep(REST_TIMES * (time.monotonic() - began))
