"""FastAPI and Starlette: a lifespan, and dependencies for the client and for one transaction.

    app = FastAPI(lifespan=lifespan(eq, run_worker=True))

    @app.post("/orders")
    async def order(new: Order, conn: Transaction, eq: Client) -> int:
        order_id = await conn.fetchval("INSERT INTO orders ... RETURNING id", ...)
        await eq.enqueue(send_invoice, connection=conn, order_id=order_id)
        return order_id

The transaction is committed when the handler has returned and before its answer is sent; where it
raised, there is neither order nor job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypeAlias

from fastapi import Depends
from starlette.requests import HTTPConnection

from ..client.aio import Soniq
from ..db.connection import AnyioConnection
from ..errors import SettingsError

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def lifespan(
    eq: Soniq,
    inner: Lifespan | None = None,
    *,
    run_worker: bool = False,
    concurrency: int | None = None,
    queues: Iterable[str] | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make a lifespan that checks the database, and may run a worker beside the requests.

    At the end, that is after the last request, the worker drains first, as jobs may use what the
    inner lifespan holds; then the inner one ends, and the client is closed last.

    Args:
        eq: The client; the dependencies give it to the app's handlers.
        inner: The app's own lifespan, entered within; what it yields stays the app's state.
        run_worker: Whether jobs run in this process too. Each process of the server runs a worker.
        concurrency: Jobs at once; the setting unless said.
        queues: Serve only these; the setting unless said.

    Raises:
        SchemaMissing: At the start; `soniq setup` creates it.
        DatabaseError: At the start; the database could not be reached.
    """

    @asynccontextmanager
    async def entered(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(eq)
            await eq.ensure_initialized()
            app.state.soniq = eq
            state = await stack.enter_async_context(inner(app)) if inner is not None else None
            if run_worker:
                await stack.enter_async_context(eq.start_worker(concurrency, queues))
            yield {"soniq": eq, **(state or {})}

    return entered


def client(request: HTTPConnection) -> Soniq:
    """Give the app's client, as a dependency.

    Raises:
        SettingsError: The app does not run with `lifespan(eq)`.
    """
    # An app that is mounted has a state of its own, and no lifespan; it shares the request's.
    shared = request.scope.get("state") or {}
    found = getattr(request.app.state, "soniq", None) or shared.get("soniq")
    if not isinstance(found, Soniq):
        raise SettingsError(
            "The app has no Soniq client. Make it with FastAPI(lifespan=lifespan(eq)); a test "
            "client runs that only as a context manager: `with TestClient(app) as client:`."
        )
    return found


Client: TypeAlias = Annotated[Soniq, Depends(client)]


async def transaction(eq: Client) -> AsyncIterator[AnyioConnection]:
    """Give a connection with a transaction open, one for a request, as a dependency."""
    async with eq.backend.acquire() as connection, connection.transaction():
        yield connection


# `function`: the commit comes before the answer is sent. At the end of the request, which is what a
# dependency has otherwise, the client would have been told of what may still be rolled back.
Transaction: TypeAlias = Annotated[AnyioConnection, Depends(transaction, scope="function")]


def bound_client(eq: Client, connection: Transaction) -> Soniq:
    """Give the client bound to the request's transaction, as a dependency."""
    return eq.within(connection)


BoundClient: TypeAlias = Annotated[Soniq, Depends(bound_client)]
