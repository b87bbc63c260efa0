"""A bell: something to wait for again and again."""

from __future__ import annotations

import anyio


class Bell:
    """An event that resets itself when somebody woke by it.

    Rung while nobody waits, it lets the next wait through at once; so nothing is missed between a
    look and a wait. Made and used within one event loop.
    """

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        """Wake whoever waits, or the next who does."""
        self._event.set()

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait to be rung; answer whether it was, or the time was up."""
        if not self._event.is_set():
            with anyio.move_on_after(timeout_seconds):
                await self._event.wait()
        rung = self._event.is_set()
        if rung:
            self._event = anyio.Event()
        return rung
