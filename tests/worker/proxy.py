"""A road to the server that can be blocked without anybody noticing: it swallows what is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketAttribute
from psycopg.conninfo import conninfo_to_dict, make_conninfo

GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Road:
    """Attributes:
    url: The database by this road.
    """

    def __init__(self, url: str) -> None:
        self._there = conninfo_to_dict(url)
        self.url = url
        self._open = anyio.Event()
        self._open.set()

    def block(self) -> None:
        """Let nothing pass in either direction; every connection stays up."""
        self._open = anyio.Event()

    def clear(self) -> None:
        self._open.set()

    async def _server(self) -> ByteStream:
        host, port = str(self._there["host"]), int(str(self._there.get("port") or 5432))
        if host.startswith("/"):
            return await anyio.connect_unix(f"{host}/.s.PGSQL.{port}")
        return await anyio.connect_tcp(host, port)

    async def _carry(
        self, source: ByteStream, target: ByteStream, scope: anyio.CancelScope
    ) -> None:
        try:
            async for data in source:
                await self._open.wait()
                await target.send(data)
        except GONE:
            pass
        scope.cancel()

    async def _serve(self, client: ByteStream) -> None:
        async with client, await self._server() as server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._carry, client, server, tasks.cancel_scope)
            tasks.start_soon(self._carry, server, client, tasks.cancel_scope)

    @asynccontextmanager
    async def travelled(self) -> AsyncIterator[Road]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        self.url = make_conninfo(
            **(self._there | {"host": "127.0.0.1", "port": port, "sslmode": "disable"})
        )
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield self
            tasks.cancel_scope.cancel()
