"""A real SMTP server for the example: it refuses each mail once, so that a retry is seen."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any, Self

from aiosmtpd.smtp import SMTP


@dataclass(frozen=True, slots=True)
class Delivery:
    """One mail as it was handed over once.

    Attributes:
        accepted: Whether it was taken; the sender of a refused one has to come again.
        message_id: Which mail it is; the same at every delivery.
        recipient: To whom.
        subject: What its subject line says.
        attempt: Which attempt of its job sent it.
    """

    accepted: bool
    message_id: str
    recipient: str
    subject: str
    attempt: int


class MailServer:
    """An SMTP server in a thread, on a free port of 127.0.0.1.

    Args:
        refuse_first: Answer the first delivery of each mail with 451, "try again later".

    Attributes:
        deliveries: Every delivery so far, in order; only ever appended to.
        port: Where it listens, once started.
    """

    def __init__(self, *, refuse_first: bool = True) -> None:
        self.deliveries: list[Delivery] = []
        self.port = 0
        self._refuse_first = refuse_first
        self._changed = threading.Condition()
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(10):
            raise TimeoutError("The mail server did not start within 10 s.")
        return self

    def __exit__(self, *error: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(10)

    @property
    def inbox(self) -> list[Delivery]:
        """The mails that were taken, in order; one that came twice is there twice."""
        return [delivery for delivery in self.deliveries if delivery.accepted]

    def wait(self, fact: Callable[[], bool], seconds: float) -> bool:
        """Wait until a fact about the deliveries holds; answer whether it came to that in time."""
        with self._changed:
            return self._changed.wait_for(fact, seconds)

    # -- what aiosmtpd calls

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        """Take a mail, or refuse it for now."""
        message = message_from_bytes(envelope.content, policy=policy.default)
        name = str(message["Message-ID"])
        known = any(delivery.message_id == name for delivery in self.deliveries)
        accepted = known or not self._refuse_first
        delivery = Delivery(
            accepted=accepted,
            message_id=name,
            recipient=envelope.rcpt_tos[0],
            subject=str(message["Subject"]),
            attempt=int(message["X-Attempt"]),
        )
        with self._changed:
            self.deliveries.append(delivery)
            self._changed.notify_all()
        return "250 OK" if accepted else "451 4.7.1 Greylisted, please try again later"

    async def _serve(self) -> None:
        self._loop, self._down = asyncio.get_running_loop(), asyncio.Event()
        listening = await self._loop.create_server(
            lambda: SMTP(self, hostname="localhost"), "127.0.0.1", 0
        )
        self.port = listening.sockets[0].getsockname()[1]
        self._up.set()
        await self._down.wait()
        listening.close()
