"""Connections to one database are known as such, so that a look for idle workers serves all."""

from __future__ import annotations

import asyncio

import asyncpg
import psycopg
import psycopg2
from sqlalchemy import create_engine

from soniq.db.borrow import borrowed, borrowed_async
from soniq.db.psycopg_hosts import where

from .lender import Place, parts


def test_a_look_on_one_librarys_connection_serves_the_others(place: Place) -> None:
    engine = create_engine("postgresql+psycopg2://", connect_args=parts(place.url))
    theirs = psycopg2.connect(place.url)
    with psycopg.connect(place.url) as ours, engine.connect() as lent:
        here = where(ours)
        assert borrowed(theirs, "soniq").where() == here
        assert borrowed(lent, "soniq").where() == here
    with psycopg2.connect(place.elsewhere) as other:
        assert borrowed(other, "soniq").where() != here
    for each in (theirs, other):
        each.close()
    engine.dispose()


def test_asyncpg_tells_databases_apart(place: Place) -> None:
    async def places() -> list[object]:
        found = []
        for url in (place.url, place.url, place.elsewhere):
            connection = await asyncpg.connect(**parts(url, "database"))
            found.append(borrowed_async(connection, "soniq").where())
            await connection.close()
        return found

    first, again, other = asyncio.run(places())
    assert first == again != other
    assert first is not None
