"""A shop's orders: the order and its invoice job are stored in one transaction of SQLAlchemy.

Run it with `uvicorn app:app`; RUN_WORKER=1 runs the jobs in the same process.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, PositiveInt
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from soniq import Soniq
from soniq.integrations.fastapi import Client, lifespan

eq = Soniq()  # SONIQ_DATABASE_URL, or the embedded PostgreSQL


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """What somebody bought."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]
    invoice: Mapped[str | None]


@cache
def engine() -> AsyncEngine:
    """Connect at first use: to the database that has the jobs, as only that can have both."""
    address = conninfo_to_dict(eq.backend.url())
    return create_async_engine("postgresql+psycopg://", connect_args=address)


@eq.job(queue="invoices", max_retries=5, retry_delay=2, retry_backoff=True)
async def write_invoice(order_id: int) -> str:
    """Give an order its invoice's number; to run it twice changes nothing."""
    async with AsyncSession(engine()) as session, session.begin():
        order = await session.get_one(Order, order_id)
        order.invoice = f"INV-{order.id:06}"
        return order.invoice


@asynccontextmanager
async def tables(app: FastAPI) -> AsyncIterator[None]:
    """Create the shop's tables; close what is open at the end."""
    async with engine().begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine().dispose()


async def session() -> AsyncIterator[AsyncSession]:
    """Open a transaction for a request; it is committed before the answer is sent."""
    async with AsyncSession(engine()) as opened, opened.begin():
        yield opened


Session = Annotated[AsyncSession, Depends(session, scope="function")]


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: str
    cents: PositiveInt


app = FastAPI(
    title="Orders", lifespan=lifespan(eq, tables, run_worker=os.environ.get("RUN_WORKER") == "1")
)


@app.post("/orders", status_code=201)
async def create(new: NewOrder, session: Session, jobs: Client) -> dict[str, int]:
    """Store an order and the job that writes its invoice: both or neither."""
    order = Order(customer=new.customer, cents=new.cents)
    session.add(order)
    await session.flush()  # gives the order its id
    await jobs.enqueue(write_invoice, connection=session, order_id=order.id)
    return {"id": order.id}


@app.get("/orders/{order_id}")
async def show(order_id: int, session: Session) -> dict[str, str | int | None]:
    """Show an order; it has an invoice once its job has run."""
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404)
    return {"customer": order.customer, "cents": order.cents, "invoice": order.invoice}
