"""What is SQLAlchemy's own: `within`, flushes, several binds, sync code in an async session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from soniq import DatabaseTimeout, Soniq, SoniqSync, TransactionAborted, UnknownConnection
from soniq.integrations.sqlalchemy import within

from .lender import Place, look, parts, work


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(place: Place) -> Iterator[Any]:
    made = create_engine("postgresql+psycopg://", connect_args=parts(place.url))
    yield made
    made.dispose()


@pytest.fixture
def queue() -> str:
    return uuid4().hex


@pytest.fixture
def eq(place: Place, queue: str) -> Soniq:
    client = Soniq(place.url)
    client.job("work", queue=queue)(work)
    return client


def stored(place: Place, queue: str) -> int:
    ((number,),) = look(place.url, "SELECT count(*) FROM soniq.jobs WHERE queue = %s", queue)
    return int(number)


def test_within_gives_the_client_of_the_sessions_colour(
    eq: Soniq, engine: Any, place: Place, queue: str
) -> None:
    sync = SoniqSync(place.url)
    sync.job("work", queue=queue)(work)
    for client in (eq, sync):
        with Session(engine) as session:
            within(client, session).enqueue("work", 1)
            assert stored(place, queue) == 0
        with engine.connect() as connection:
            within(client, connection).enqueue("work", 1)
        scoped = scoped_session(sessionmaker(engine))
        within(client, scoped).enqueue("work", 1)
        scoped.remove()
        assert stored(place, queue) == 0
        with Session(engine) as session, session.begin():
            within(client, session).enqueue("work", 1)
        assert stored(place, queue) == 1
        look(place.url, "DELETE FROM soniq.jobs WHERE queue = %s RETURNING id", queue)


def test_within_takes_async_sessions_as_well(eq: Soniq, place: Place, queue: str) -> None:
    async def enqueue() -> None:
        engine = create_async_engine("postgresql+psycopg://", connect_args=parts(place.url))
        async with AsyncSession(engine) as session:
            await within(eq, session).enqueue("work", 1)
        assert stored(place, queue) == 0
        async with AsyncSession(engine) as session, session.begin():
            await within(eq, session).enqueue("work", 1)
        await engine.dispose()

    asyncio.run(enqueue())
    assert stored(place, queue) == 1


def test_sync_code_in_an_async_session_is_sync_code(eq: Soniq, place: Place, queue: str) -> None:
    async def enqueue() -> None:
        engine = create_async_engine("postgresql+psycopg://", connect_args=parts(place.url))
        async with AsyncSession(engine) as session, session.begin():
            await session.run_sync(lambda sync: eq.sync.enqueue("work", 1, connection=sync))
            assert stored(place, queue) == 0
        await engine.dispose()

    asyncio.run(enqueue())
    assert stored(place, queue) == 1


def test_nothing_is_flushed(eq: Soniq, engine: Any) -> None:
    """The caller may have half an object there; ids that a job needs are theirs to flush for."""
    with Session(engine) as session:
        session.add(thing := Thing(id=1))
        eq.sync.enqueue("work", 1, connection=session)
        assert thing in session.new
        session.rollback()


def test_a_session_of_several_databases_must_say_which(
    eq: Soniq, engine: Any, place: Place, queue: str
) -> None:
    with Session(binds={Thing: engine}) as session:
        with pytest.raises(UnknownConnection, match="bind_arguments"):
            eq.sync.enqueue("work", 1, connection=session)
        chosen = session.connection(bind_arguments={"mapper": Thing})
        eq.sync.enqueue("work", 1, connection=chosen)
        assert stored(place, queue) == 0
        session.commit()
    assert stored(place, queue) == 1


def test_a_pool_of_sqlalchemys_without_a_free_connection_is_a_timeout(
    eq: Soniq, place: Place
) -> None:
    engine = create_engine(
        "postgresql+psycopg://",
        connect_args=parts(place.url),
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.1,
    )
    with engine.connect(), Session(engine) as session:
        with pytest.raises(DatabaseTimeout, match="lent no connection"):
            eq.sync.enqueue("work", 1, connection=session)
    engine.dispose()


def test_a_session_that_needs_a_rollback_says_so(eq: Soniq, engine: Any) -> None:
    with Session(engine) as session:
        session.add(Thing(id=1))
        with pytest.raises(Exception, match="things"):  # there is no such table
            session.flush()
        with pytest.raises(TransactionAborted, match="Roll it back"):
            eq.sync.enqueue("work", 1, connection=session)
        session.rollback()
        eq.sync.enqueue("work", 1, connection=session)
        assert session.execute(text("SELECT 1")).scalar_one() == 1
