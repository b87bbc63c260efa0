"""A road to a server that can be blocked, cut, slowed, or made to swallow what is sent.

On threads and plain sockets: it is no part of the event loop of whoever travels, and anyio's unix
sockets, when cancelled at the moment in which data comes, upset the loop (`InvalidStateError`).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class _Messages:
    """What one client sends, cut into messages.

    Source: "Message Formats", PostgreSQL documentation. The first message has no type; the others
    have a letter, and then all have their length, itself included.

    Attributes:
        trips: How many of them make the client wait for an answer: Query and Sync.
    """

    def __init__(self) -> None:
        self.trips = 0
        self._rest = b""
        self._type_bytes = 0

    def take(self, data: bytes) -> None:
        """Read on."""
        self._rest += data
        while len(self._rest) >= self._type_bytes + 4:
            head = self._type_bytes
            end = head + int.from_bytes(self._rest[head : head + 4])
            if len(self._rest) < end:
                break
            self.trips += self._rest[:head] in {b"Q", b"S"}
            self._rest = self._rest[end:]
            self._type_bytes = 1


class _Line:
    """One connection that travels the road."""

    def __init__(self, *ends: socket.socket) -> None:
        self._ends = ends
        self.deaf = False

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # whoever waits for data is woken
            end.close()


class Road:
    """Attributes:
    url: The database by this road, within `with`.
    delay: Seconds that everything takes longer, in each direction.
    """

    def __init__(self, url: str) -> None:
        self._there = conninfo_to_dict(url)
        self.url = url
        self.delay = 0.0
        self._open = threading.Event()
        self._open.set()
        self._swallows = False
        self._lines: set[_Line] = set()
        self._sent: list[_Messages] = []

    @property
    def trips(self) -> int:
        """How often clients asked the server and waited; a pipeline of queries counts once."""
        return sum(messages.trips for messages in self._sent)

    def block(self) -> None:
        """Let nothing pass in either direction; every connection stays up, and nothing is lost."""
        self._open.clear()

    def swallow(self) -> None:
        """Take what is sent, connections too, and throw it away; whoever was here stays deaf."""
        self._swallows = True
        for line in list(self._lines):
            line.deaf = True

    def clear(self) -> None:
        """Let everything pass, but for what stays deaf."""
        self._swallows = False
        self.delay = 0.0
        self._open.set()

    def cut(self) -> None:
        """Break every connection that is not deaf; new ones may come."""
        for line in list(self._lines):
            if not line.deaf:
                line.close()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        here = {"host": "127.0.0.1", "port": self._listener.getsockname()[1]}
        self.url = make_conninfo(**(self._there | here | {"sslmode": "disable"}))
        self._beside(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in list(self._lines):
            line.close()
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the road was closed
                return
            try:
                server = self._dialled()
            except OSError:  # the server is down: so is the road
                client.close()
                continue
            line = _Line(client, server)
            line.deaf = self._swallows
            self._lines.add(line)
            self._sent.append(_Messages())
            self._beside(self._carry, client, server, line, self._sent[-1])
            self._beside(self._carry, server, client, line)

    def _dialled(self) -> socket.socket:
        host, port = str(self._there["host"]), int(str(self._there.get("port") or 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(f"{host}/.s.PGSQL.{port}")
        except OSError:
            made.close()
            raise
        return made

    def _carry(
        self,
        source: socket.socket,
        target: socket.socket,
        line: _Line,
        messages: _Messages | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                if messages is not None:
                    messages.take(data)
                if self.delay:
                    time.sleep(self.delay)
                if not line.deaf:
                    target.sendall(data)
        line.close()
        self._lines.discard(line)

    def _beside(self, function: object, *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]
