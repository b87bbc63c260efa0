from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

import flask
import flask_sqlalchemy
import sqlmodel
import sqlmodel.ext.asyncio.session
from clients.colour import entered, settled
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ..lender import Lender, parts

# Where a caller streams long answers, a short one is asked for like this.
AT_ONCE = {"stream_results": False, "yield_per": None}


class OfConnection(Lender):
    title = "SQLAlchemy Connection, psycopg"
    driver: ClassVar[str] = "psycopg"
    options: ClassVar[dict[str, Any]] = {"pool_size": 1, "max_overflow": 0}

    def make_engine(self, url: str, **options: Any) -> Any:
        make = create_async_engine if self.is_async else create_engine
        named = parts(url, "database" if self.driver == "asyncpg" else "dbname")
        named.pop("hostaddr", None)
        return make(f"postgresql+{self.driver}://", connect_args=named, **self.options, **options)

    async def open(self, url: str, **options: Any) -> None:
        self.url = url
        self.engine = self.make_engine(url, **options)
        self.session = await self.begin()

    async def begin(self) -> Any:
        return await settled(self.engine.connect())

    async def close(self) -> None:
        await settled(self.session.close())
        await settled(self.engine.dispose())

    @property
    def lent(self) -> Any:
        return self.session

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await settled(self.session.rollback())
            raise
        await settled(self.session.rollback() if undo else self.session.commit())

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        return entered(self.session.begin_nested())

    async def value(self, sql: str) -> Any:
        result = await settled(self.session.execute(text(sql), execution_options=AT_ONCE))
        return result.scalar_one()

    async def commit_each(self) -> None:
        await settled(self.session.execution_options(isolation_level="AUTOCOMMIT"))

    async def dress_up(self) -> None:
        await self.close()
        await self.open(
            self.url,
            isolation_level="SERIALIZABLE",
            json_serializer=lambda value: json.dumps({"mine": value}),
            json_deserializer=lambda data: "whisper",
            execution_options={"stream_results": True, "yield_per": 7, "mine": True},
        )

    async def dress(self) -> Any:
        connection = await self.connection()
        options = getattr(connection, "sync_connection", connection).get_execution_options()
        isolation = await settled(connection.get_isolation_level())
        return dict(options), isolation, await self.value("SELECT CAST('{}' AS jsonb)")

    async def connection(self) -> Any:
        return self.session

    async def shut(self) -> None:
        await settled(self.session.close())


class OnPsycopg2(OfConnection):
    title = "SQLAlchemy Connection, psycopg2"
    driver = "psycopg2"


class OfAsyncConnection(OfConnection):
    title = "SQLAlchemy AsyncConnection, psycopg"
    is_async = True

    async def close(self) -> None:
        await settled(self.session.close())
        await self.engine.dispose()


class OfAsyncConnectionOnAsyncpg(OfAsyncConnection):
    title = "SQLAlchemy AsyncConnection, asyncpg"
    driver = "asyncpg"


class OfSession(OfConnection):
    title = "SQLAlchemy Session, psycopg"
    kind: ClassVar[Any] = Session

    async def begin(self) -> Any:
        return self.kind(self.engine, close_resets_only=False)

    async def connection(self) -> Any:
        return await settled(self.session.connection())

    async def commit_each(self) -> None:
        options = {"isolation_level": "AUTOCOMMIT"}
        await settled(self.session.connection(execution_options=options))


class OfSessionOnPsycopg2(OfSession):
    title = "SQLAlchemy Session, psycopg2"
    driver = "psycopg2"


class OfScopedSession(OfSession):
    title = "SQLAlchemy scoped_session, psycopg"

    async def begin(self) -> Any:
        return scoped_session(sessionmaker(self.engine, close_resets_only=False))


class OfAsyncSession(OfSession):
    title = "SQLAlchemy AsyncSession, psycopg"
    is_async = True
    kind = AsyncSession


class OfAsyncSessionOnAsyncpg(OfAsyncSession):
    title = "SQLAlchemy AsyncSession, asyncpg"
    driver = "asyncpg"


class OfAsyncScopedSession(OfAsyncSession):
    title = "SQLAlchemy async_scoped_session, asyncpg"
    driver = "asyncpg"

    async def begin(self) -> Any:
        made = async_sessionmaker(self.engine, close_resets_only=False)
        return async_scoped_session(made, scopefunc=lambda: None)


class OfSqlmodel(OfSession):
    title = "SQLModel Session, psycopg"
    kind = sqlmodel.Session

    async def value(self, sql: str) -> Any:
        result = await settled(self.session.exec(text(sql), execution_options=AT_ONCE))
        return result.scalar_one()


class OfAsyncSqlmodel(OfSqlmodel):
    title = "SQLModel AsyncSession, asyncpg"
    is_async = True
    driver = "asyncpg"
    kind = sqlmodel.ext.asyncio.session.AsyncSession


class OfFlask(OfSession):
    title = "Flask-SQLAlchemy db.session, psycopg"

    async def open(self, url: str, **options: Any) -> None:
        self.url = url
        app = flask.Flask("hosts")
        app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+{self.driver}://"
        options = {**self.options, **options, "connect_args": parts(url)}
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
        self.db = flask_sqlalchemy.SQLAlchemy(app, session_options={"close_resets_only": False})
        self.context = app.app_context()
        self.context.push()
        self.engine = self.db.engine
        self.session = self.db.session

    async def close(self) -> None:
        self.session.remove()
        self.engine.dispose()
        self.context.pop()


LENDERS: list[type[Lender]] = [
    OfConnection,
    OnPsycopg2,
    OfAsyncConnection,
    OfAsyncConnectionOnAsyncpg,
    OfSession,
    OfSessionOnPsycopg2,
    OfScopedSession,
    OfAsyncSession,
    OfAsyncSessionOnAsyncpg,
    OfAsyncScopedSession,
    OfSqlmodel,
    OfAsyncSqlmodel,
    OfFlask,
]
