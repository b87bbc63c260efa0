"""Notifications, on a connection of their own that is watched over.

A listener can be deaf without noticing: through a pooler in transaction mode `LISTEN` succeeds, and
nothing ever arrives. So it proves itself, at the start and after a time of quiet: a nonce that
another connection sends must arrive. (Sent on the same connection it would arrive even through such
a pooler.) Whatever happens, the worker's polling alone is correct; a listener makes it quick.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from enum import Enum, auto
from time import monotonic
from uuid import uuid4

import anyio
import psycopg

from soniq.errors import ConnectionLost, ReadOnlyServer, SoniqError

from .aio import Database
from .connection import AnyioConnection
from .faults import translate
from .pooling import delays
from .render import quoted_name

logger = logging.getLogger("soniq.db")

PROBE = "probe:"
"""What the payload of a probe begins with, whoever sent it."""
PROBE_TIMEOUT = 2.0
"""Seconds within which a probe must arrive."""
QUIET_AFTER = 30.0
"""Seconds without a message, give or take a fifth, before the next probe. A probe of another worker
counts as a message, so a quiet cluster sends about one in that time, not one for each worker."""
RETRY_AFTER = 60.0
"""Seconds until a deaf listener tries again."""
POKE_TIMEOUT = 10.0
"""Seconds the sender of a probe may take, and LISTEN."""


class _End(Enum):
    LOST = auto()  # the connection broke, or could not be made
    DEAF = auto()  # it stands, and nothing arrives


class _Probed(Enum):
    HEARD = auto()
    UNHEARD = auto()
    UNSENT = auto()  # the other connection failed, which says nothing about this one


class Listener:
    """Hears one channel for as long as `run` runs.

    Args:
        database: Makes the connection; `listen_url` of its settings is used, if set.
        channel: The channel's name, not quoted.
        on_message: Called with each payload; it must not block.
        poke: Sends a payload to the channel from another connection.
        on_state: Called with True when messages begin to arrive (again): what came before may have
            been missed, so look once; with False when they do not.

    Attributes:
        healthy: Messages arrive, as far as is known.
    """

    def __init__(
        self,
        database: Database,
        channel: str,
        on_message: Callable[[str], None],
        *,
        poke: Callable[[str], Awaitable[None]],
        on_state: Callable[[bool], None],
    ) -> None:
        self._database = database
        self._channel = channel
        self._on_message = on_message
        self._poke = poke
        self._on_state = on_state
        self._told: bool | None = None
        self._complained: _End | None = None
        self._nonce = ""
        self._arrived = anyio.Event()
        self._last_heard = 0.0

    @property
    def healthy(self) -> bool:
        """Tell whether messages arrive, as far as is known."""
        return self._told is True

    async def run(self) -> None:
        """Listen until cancelled; a lost server is waited for."""
        waits = delays()
        while True:
            end, proved = await self._serve()
            self._tell(False)
            if end is _End.DEAF:
                await anyio.sleep(RETRY_AFTER)
            else:
                waits = delays() if proved else waits
                await anyio.sleep(next(waits))

    async def _serve(self) -> tuple[_End, bool]:
        """Connect and listen until that ends; tell how, and whether it ever worked."""
        try:
            connection = await self._database.connect(self._database.settings.listen_url)
        except SoniqError as error:
            return self._complain(_End.LOST, error), False
        try:
            return await self._listen(connection)
        except ReadOnlyServer as error:  # a standby takes no LISTEN
            return self._complain(_End.DEAF, error), False
        except SoniqError as error:
            return self._complain(_End.LOST, error), False
        finally:
            await connection.close()

    async def _listen(self, connection: AnyioConnection) -> tuple[_End, bool]:
        await self._execute(connection, f"LISTEN {quoted_name(self._channel)}")
        # Nobody but us closes this socket, so nothing but the server need wake us.
        connection.interval = RETRY_AFTER
        lost: list[SoniqError] = []
        async with anyio.create_task_group() as both:
            both.start_soon(self._receive, connection, both.cancel_scope, lost)
            await self._prove()
            both.cancel_scope.cancel()
        if lost:
            return self._complain(_End.LOST, lost[0]), self.healthy
        if self.healthy:  # it did hear: the server may have been demoted, and a new one be there
            return self._complain(_End.LOST, ConnectionLost("nothing arrives any more")), True
        await self._execute(connection, "UNLISTEN *")
        return self._complain(_End.DEAF), False

    async def _receive(
        self, connection: AnyioConnection, scope: anyio.CancelScope, lost: list[SoniqError]
    ) -> None:
        try:
            async with aclosing(connection.notifies()) as messages:
                async for message in messages:
                    self._take(message.payload)
        except psycopg.Error as error:
            lost.append(translate(error, self._database.settings.schema, lost=True))
            scope.cancel()

    def _take(self, payload: str) -> None:
        self._last_heard = monotonic()
        if payload == self._nonce:
            self._arrived.set()
        if payload.startswith(PROBE):
            return
        try:
            self._on_message(payload)
        except Exception:
            logger.exception("A notification could not be handled.")

    async def _prove(self) -> None:
        """Send probes, at once and after each time of quiet; return when one is not heard."""
        while True:
            match await self._probe():
                case _Probed.HEARD:
                    self._complained = None
                    self._tell(True)
                    await self._until_quiet()
                case _Probed.UNSENT:
                    await anyio.sleep(PROBE_TIMEOUT)
                case _Probed.UNHEARD:
                    # Once heard, a second try: this loop may have been kept busy for so long.
                    if not self.healthy or await self._probe() is _Probed.UNHEARD:
                        return

    async def _probe(self) -> _Probed:
        self._nonce = PROBE + uuid4().hex
        self._arrived = anyio.Event()
        try:
            with anyio.fail_after(POKE_TIMEOUT):
                await self._poke(self._nonce)
        except ReadOnlyServer:
            return _Probed.UNHEARD
        except (SoniqError, TimeoutError) as error:
            logger.debug("The listener's probe could not be sent: %s", error)
            return _Probed.UNSENT
        with anyio.move_on_after(PROBE_TIMEOUT):
            await self._arrived.wait()
        return _Probed.HEARD if self._arrived.is_set() else _Probed.UNHEARD

    async def _until_quiet(self) -> None:
        pause = QUIET_AFTER * (0.8 + 0.4 * random.random())  # noqa: S311
        while (left := self._last_heard + pause - monotonic()) > 0:  # noqa: ASYNC110  time is meant
            await anyio.sleep(left)

    async def _execute(self, connection: AnyioConnection, statement: str) -> None:
        connection.limit = POKE_TIMEOUT
        try:
            await connection.execute(statement.encode())
        except psycopg.Error as error:
            raise translate(
                error, self._database.settings.schema, lost=connection.closed
            ) from error
        finally:
            connection.limit = None

    def _tell(self, state: bool) -> None:
        if state is not self._told:
            self._told = state
            self._on_state(state)

    def _complain(self, end: _End, error: SoniqError | None = None) -> _End:
        """Say once what is wrong; until it is well again, or something else is."""
        level = logging.DEBUG if end is self._complained else logging.WARNING
        self._complained = end
        if end is _End.LOST:
            logger.log(level, "The listener lost its connection and makes another: %s", error)
        else:
            logger.log(
                level,
                "Notifications do not arrive%s: a pooler in transaction mode, or a standby, is in "
                "between. Workers poll every %g s instead; give listen_url (SONIQ_LISTEN_URL) a "
                "direct address of the primary for instant starts.",
                f" ({error})" if error else "",
                self._database.settings.poll_interval,
            )
        return end
