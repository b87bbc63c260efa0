# ruff: noqa: E402  what Django finds when it is imported is arranged before
"""The cases on Django's connections, in a process of their own: `django_side.py DRIVER URL URL`.

Django's settings, and which psycopg it found first, are a process's for good. What became of each
case is written as JSON: an empty text, or what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from .cases import CASES
from .lender import Case, Lender, Oops, Place, parts, stop_looking, without_loop

driver = sys.argv[1]
if driver == "psycopg2":
    # Django takes psycopg 3 if it can, and psycopg2 only where there is none.
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name == "psycopg"}
    sys.modules["psycopg"] = None  # type: ignore[assignment]

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

place = Place(*sys.argv[2:4])


def database(url: str, **options: Any) -> dict[str, Any]:
    named = parts(url)
    found = {name: named.get(name.lower(), "") for name in ("HOST", "PORT", "USER", "PASSWORD")}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": named["dbname"],
        "OPTIONS": options,
        **found,
    }


settings.configure(
    DATABASES={
        "default": database(place.url),
        "elsewhere": database(place.elsewhere),
        "pooled": database(place.url, pool=True),
        "pooled elsewhere": database(place.elsewhere, pool=True),
    },
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["testserver"],
    SECRET_KEY="for tests",
    USE_TZ=True,
    TIME_ZONE="UTC",
)
django.setup()
connections["default"].client  # noqa: B018  has the backend imported, and its driver chosen
if driver == "psycopg2":
    sys.modules.update(hidden)

from django.db.backends.postgresql.psycopg_any import is_psycopg3

assert is_psycopg3 == (driver == "psycopg")


class OfConnection(Lender):
    title: ClassVar[str] = "connection"
    inapplicable = ("the_client_of_the_other_colour_refuses_it",)
    here: ClassVar[str] = "default"
    there: ClassVar[str] = "elsewhere"
    block: Any = None

    async def open(self, url: str) -> None:
        self.alias = self.here if url == self.place.url else self.there

    async def close(self) -> None:
        if self.block:
            self.block.__exit__(Oops, Oops(), None)
        connections.close_all()
        for made in connections.all():
            if is_psycopg3:
                made.close_pool()

    @property
    def lent(self) -> Any:
        return connection if self.alias == "default" else connections[self.alias]

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        with transaction.atomic(using=self.alias):
            yield
            transaction.set_rollback(undo, using=self.alias)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with transaction.atomic(using=self.alias):
            yield

    async def value(self, sql: str) -> Any:
        with connections[self.alias].cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]

    async def commit_each(self) -> None: ...

    async def dress_up(self) -> None:
        made = connections[self.alias]
        made.ensure_connection()
        made.force_debug_cursor = True
        dress_driver(made.connection)

    async def dress(self) -> Any:
        made = connections[self.alias]
        answer = await self.value("SELECT CAST('{}' AS jsonb)")
        return answer, made.force_debug_cursor, made.get_autocommit(), made.isolation_level

    async def shut(self) -> None:
        # Outside of a block Django connects anew.
        self.block = transaction.atomic(using=self.alias)
        self.block.__enter__()
        connections[self.alias].close()


def dress_driver(raw: Any) -> None:
    if is_psycopg3:
        from psycopg.types.json import JsonbLoader

        class Whispering(JsonbLoader):
            def load(self, data: Any) -> str:
                return "whisper"

        raw.prepare_threshold = 3
        for name in ("jsonb", "uuid", "int8", "float8", "numeric", "bool"):
            raw.adapters.register_loader(name, Whispering)
    else:
        from psycopg2 import extensions

        # jsonb, uuid, int8, float8, numeric, bool
        numbers = (3802, 2950, 20, 701, 1700, 16)
        whisper = extensions.new_type(numbers, "WHISPER", lambda value, cursor: "whisper")
        extensions.register_type(whisper, raw)


class OfAlias(OfConnection):
    title = "connections[alias]"

    @property
    def lent(self) -> Any:
        return connections[self.alias]


class ByAlias(OfConnection):
    title = "alias"

    @property
    def lent(self) -> Any:
        return self.alias


class OfPool(OfAlias):
    title = "connections[alias], pool"
    here, there = "pooled", "pooled elsewhere"


class InView(OfConnection):
    title = "connection, view"
    route: ClassVar[str] = "sync"

    @classmethod
    def run(cls, case: Case, place: Place) -> None:
        served.append(lambda: cls(place).whole(case))
        answer(Client().get(f"/{cls.route}"))


class InAsgiView(InView):
    title = "connection, sync view under ASGI"

    @classmethod
    def run(cls, case: Case, place: Place) -> None:
        async def ask() -> Any:
            return await AsyncClient().get(f"/{cls.route}")

        served.append(lambda: cls(place).whole(case))
        answer(asyncio.run(ask()))


class InOneHop(InAsgiView):
    title = "connection, async view, one hop"
    route = "one-hop"


class InAsyncView(InAsgiView):
    """Each call a hop of its own: Django has no async `atomic()`, but one thread for them all."""

    title = "connection, async view"
    is_async = True
    route = "async"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.beyond = OfConnection(place)

    async def open(self, url: str) -> None:
        await super().open(url)
        await hop(self.beyond.open(url))

    async def close(self) -> None:
        await hop(self.beyond.close())

    async def value(self, sql: str) -> Any:
        return await hop(self.beyond.value(sql))

    async def dress_up(self) -> None:
        await hop(self.beyond.dress_up())

    async def dress(self) -> Any:
        return await hop(self.beyond.dress())

    async def shut(self) -> None:
        await hop(self.beyond.shut())

    @asynccontextmanager
    async def transaction(self, *, undo: bool = False) -> AsyncIterator[None]:
        block = transaction.atomic(using=self.alias)
        await sync_to_async(block.__enter__)()
        try:
            yield
            await sync_to_async(transaction.set_rollback)(undo, using=self.alias)
        except BaseException as error:
            await sync_to_async(block.__exit__)(type(error), error, error.__traceback__)
            raise
        await sync_to_async(block.__exit__)(None, None, None)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        async with self.transaction():
            yield


async def hop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await sync_to_async(without_loop)(coroutine)


# -- the views: each does what was put down for it

served: list[Callable[[], Coroutine[Any, Any, Any]]] = []


def sync_view(request: HttpRequest) -> HttpResponse:
    return told(lambda: without_loop(served.pop()()))


async def one_hop_view(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(sync_view)(request)


async def async_view(request: HttpRequest) -> HttpResponse:
    try:
        await served.pop()()
    except Exception:
        return HttpResponse(traceback.format_exc())
    return HttpResponse("")


def told(do: Callable[[], Any]) -> HttpResponse:
    try:
        do()
    except Exception:
        return HttpResponse(traceback.format_exc())
    return HttpResponse("")


def answer(response: Any) -> None:
    said = response.content.decode()
    if said:
        raise AssertionError(said)


urlpatterns = [
    path("sync", sync_view),
    path("one-hop", one_hop_view),
    path("async", async_view),
]

LENDERS: dict[str, list[type[OfConnection]]] = {
    "psycopg": [OfConnection, OfAlias, ByAlias, OfPool, InView, InAsgiView, InOneHop, InAsyncView],
    "psycopg2": [OfConnection, OfAlias, ByAlias, InView, InAsgiView, InOneHop, InAsyncView],
}


def outcome(lender: type[OfConnection], case: Case) -> str | None:
    if case.__name__ in lender.inapplicable:
        return None
    try:
        lender.run(case, place)
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    outcomes = {
        lender.title: {case.__name__: outcome(lender, case) for case in CASES}
        for lender in LENDERS[driver]
    }
    json.dump(outcomes, sys.stdout)
    stop_looking()
