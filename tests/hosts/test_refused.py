"""What cannot be lent is refused, in Soniq's words and with the next step."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import traceback
from typing import Any

import anyio
import asyncpg
import flask
import flask_sqlalchemy
import psycopg
import psycopg2
import psycopg2.pool
import pytest
from django.utils.connection import BaseConnectionHandler, ConnectionProxy
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from soniq import DatabaseTimeout, SchemaMissing, Soniq, SoniqSync, UnknownConnection

from .lender import Place, parts, work
from .lenders.of_asyncpg import named


@pytest.fixture
def eq(place: Place) -> Any:
    with SoniqSync(place.url) as client:
        client.job("work")(work)
        yield client


def engine_of(url: str) -> Any:
    return create_engine("postgresql+psycopg://", connect_args=parts(url))


def test_an_unknown_object_is_answered_with_all_that_is_taken(eq: SoniqSync) -> None:
    with pytest.raises(UnknownConnection, match=r"builtins\.object as a connection") as caught:
        eq.enqueue("work", 1, connection=object())
    for library in ("psycopg.Connection", "psycopg2", "SQLAlchemy", "Flask", "SQLModel", "Django"):
        assert library in str(caught.value)
    assert "async" not in str(caught.value)
    with pytest.raises(UnknownConnection) as caught:
        anyio.run(Soniq("postgresql://").within(object()).list_jobs)
    for library in ("psycopg.AsyncConnection", "asyncpg", "AsyncSession", "AsyncConnection"):
        assert library in str(caught.value)
    assert "psycopg2" not in str(caught.value)


def test_what_lends_connections_itself_is_refused_with_the_next_step(
    eq: SoniqSync, place: Place
) -> None:
    app = flask.Flask("refused")
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    lenders = {
        engine_of(place.url): "pass a Session",
        psycopg2.pool.SimpleConnectionPool(0, 1, place.url): r"pool\.getconn\(\)",
        flask_sqlalchemy.SQLAlchemy(app): r"connection=db\.session",
        sessionmaker(): "sqlalchemy",
    }
    for lender, said in lenders.items():
        with pytest.raises(UnknownConnection, match=said):
            eq.enqueue("work", 1, connection=lender)


def test_async_ones_too(place: Place) -> None:
    async def refused() -> None:
        pool = await asyncpg.create_pool(**named(place.url), min_size=0)
        engine = create_async_engine("postgresql+asyncpg://")
        eq = Soniq(place.url)
        for lender, said in {pool: r"pool\.acquire\(\)", engine: "pass an AsyncSession"}.items():
            with pytest.raises(UnknownConnection, match=said):
                await eq.within(lender).list_jobs()
        await pool.close()

    asyncio.run(refused())


def test_a_library_that_knows_asyncio_only_is_refused_on_trio(place: Place) -> None:
    session = AsyncSession(create_async_engine("postgresql+asyncpg://"))
    django = ConnectionProxy(BaseConnectionHandler({}), "default")

    async def refused() -> None:
        for lender in (session, django):
            with pytest.raises(UnknownConnection, match="works on asyncio only, and trio runs"):
                await Soniq(place.url).within(lender).list_jobs()

    anyio.run(refused, backend="trio")


def test_another_kind_of_database_is_refused(eq: SoniqSync) -> None:
    engine = create_engine("sqlite://")
    with Session(engine) as session, pytest.raises(UnknownConnection, match="leads to sqlite"):
        eq.enqueue("work", 1, connection=session)
    engine.dispose()


def test_an_asynchronous_connection_of_psycopg2_is_refused(eq: SoniqSync, place: Place) -> None:
    connection = psycopg2.connect(place.url, async_=True)
    with pytest.raises(UnknownConnection, match="asynchronous"):
        eq.enqueue("work", 1, connection=connection)
    connection.close()


def test_what_django_will_not_have_is_told(place: Place) -> None:
    code = """
import asyncio, django, json, sys
from django.conf import settings
sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
options = json.loads(sys.argv[1])
other = {"ENGINE": "django.db.backends.postgresql", "NAME": options.pop("dbname")}
other["OPTIONS"] = options
settings.configure(DATABASES={"default": sqlite, "other": other})
django.setup()
from django.core.cache import cache
from django.db import connection, connections, transaction
from soniq import SoniqSync
eq = SoniqSync("postgresql://")
for lent in (connection, connections["default"], cache, "nowhere", "postgresql://u:secret@h"):
    try:
        eq.within(lent).list_jobs()
    except Exception as error:
        print(error)
with transaction.atomic("other"):
    transaction.set_rollback(True, "other")
    try:
        eq.within(connections["other"]).list_jobs()
    except Exception as error:
        print(error)
async def main():
    try:
        eq.within(connections["other"]).list_jobs()
    except Exception as error:
        print(error)
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, json.dumps(parts(place.url))]
    said = subprocess.check_output(command, text=True, timeout=50)
    sqlite, again, cache, nowhere, url, failed, loop = said.splitlines()
    assert sqlite == again
    assert sqlite.startswith("What was passed leads to sqlite.")
    assert cache.startswith("What was passed leads to no database.")
    assert nowhere.startswith("DATABASES has no 'nowhere'. Pass one of default, other, or")
    assert url.startswith("DATABASES has no such alias.")
    assert failed.startswith("The transaction has failed before, within its atomic() block.")
    assert "sync_to_async()" in loop


def test_the_answer_to_a_wait_is_ours_when_the_library_gives_up(database_url: str) -> None:
    async def wait() -> None:
        eq = Soniq(database_url)
        eq.job("work")(work)
        connection = await asyncpg.connect(**named(database_url), command_timeout=2.0)
        async with connection.transaction():
            with pytest.raises(DatabaseTimeout, match="command_timeout"):
                await eq.enqueue("work", 1, connection=connection)
        await connection.close()

    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE soniq.jobs")
        asyncio.run(wait())


def test_an_error_shows_neither_our_frames_nor_what_is_in_the_job(place: Place) -> None:
    """SQLAlchemy's errors quote the parameters; they stay out of the chain."""
    engine = engine_of(place.elsewhere)
    eq = SoniqSync(place.url)
    eq.job("work")(work)
    with Session(engine) as session:
        with pytest.raises(SchemaMissing) as caught:
            eq.enqueue("work", "s3cret", connection=session)
        told = "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in told.replace('"s3cret"', "")
        assert "integrations" not in told
        assert "sqlalchemy" not in told
        assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)
        session.rollback()
    engine.dispose()
