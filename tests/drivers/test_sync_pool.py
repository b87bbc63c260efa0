"""Threads and the sync pool: whose turn it is, and that nobody is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest

from soniq.db import sync_pool
from soniq.db.sync import Database
from soniq.db.sync_connection import Connection
from soniq.db.sync_pool import OwnPool
from soniq.errors import AccessDenied, ConnectionLost, DatabaseTimeout, SoniqError
from soniq.settings import Settings

from .conftest import ask, drop

SECONDS = 30.0  # more than any of it takes on the busiest machine


@pytest.fixture(scope="module")
def url(make_database: Callable[..., str], keeper: psycopg.Connection[Any]) -> Iterator[str]:
    url = make_database()
    yield url
    drop(keeper, url)


def settings(**changes: Any) -> Settings:
    return Settings().with_(**{"pool_timeout": SECONDS, **changes})


@contextmanager
def opened(url: str, **changes: Any) -> Iterator[tuple[OwnPool, ThreadPoolExecutor]]:
    """A pool, and threads to use it in."""
    pool = OwnPool(lambda: Connection.connect(url, autocommit=True), settings(**changes))
    with ThreadPoolExecutor(20) as threads:
        yield pool, threads
        pool.close()


def waiting(pool: OwnPool, number: int) -> None:
    """Wait until so many threads wait for a connection."""
    pause = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if len(pool._waiters) == number:
            return
        pause.wait(0.01)
    raise AssertionError(f"{len(pool._waiters)} wait, not {number}")


def test_those_who_wait_are_served_in_the_order_they_came(url: str) -> None:
    order: list[int] = []

    def use(number: int) -> None:
        connection = pool.checkout()
        order.append(number)
        pool.give_back(connection)

    with opened(url, pool_max_size=1) as (pool, threads):
        held = pool.checkout()
        users: list[Future[None]] = []
        for number in range(5):
            users.append(threads.submit(use, number))
            waiting(pool, number + 1)
        pool.give_back(held)
        for user in users:
            user.result(SECONDS)
        assert order == [0, 1, 2, 3, 4]


def test_who_waits_gets_the_room_of_a_connection_that_broke(url: str) -> None:
    with opened(url, pool_max_size=1) as (pool, threads):
        held = pool.checkout()
        other = threads.submit(pool.checkout)
        waiting(pool, 1)
        held.pgconn.finish()
        pool.give_back(held)
        fresh = other.result(SECONDS)
        assert fresh is not held
        assert fresh.fetchval("SELECT 1") == 1
        pool.give_back(fresh)


def test_who_gives_up_is_not_handed_one_afterwards(url: str) -> None:
    with opened(url, pool_max_size=1, pool_timeout=0.05) as (pool, threads):
        held = pool.checkout()
        with pytest.raises(DatabaseTimeout, match="pool_max_size"):
            threads.submit(pool.checkout).result(SECONDS)
        pool.give_back(held)
        assert pool.checkout() is held
        pool.give_back(held)


class Oops(BaseException):
    """What Ctrl-C is: no Exception."""


@pytest.mark.parametrize("served", [False, True])
def test_who_is_interrupted_while_waiting_leaves_the_pool_whole(url: str, served: bool) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if served:
                pool.give_back(held)
            raise Oops

    with opened(url, pool_max_size=1) as (pool, _):
        held = pool.checkout()
        waiter = sync_pool._Waiter(served=Interrupted())
        pool._waiters.append(waiter)
        with pytest.raises(Oops):
            pool._awaited(waiter, monotonic() + SECONDS)
        if not served:
            pool.give_back(held)
        assert pool.checkout() is held
        pool.give_back(held)


def test_a_close_is_told_to_those_who_wait_and_takes_what_comes_back(url: str) -> None:
    with opened(url, pool_max_size=1) as (pool, threads):
        held = pool.checkout()
        other = threads.submit(pool.checkout)
        waiting(pool, 1)
        pool.close()
        with pytest.raises(ConnectionLost, match="closed while"):
            other.result(SECONDS)
        pool.give_back(held)
        assert held.closed
        with pytest.raises(ConnectionLost, match="closed while"):
            pool.checkout()


def test_many_threads_on_few_connections_all_come_to_their_turn(url: str) -> None:
    """A wake-up that was lost would leave a thread waiting until `pool_timeout`."""
    database = Database(settings(pool_max_size=2), url=lambda: url)

    def use(thread: int) -> int:
        for number in range(100):
            row = (thread, number)
            assert database.run(ask, "SELECT CAST(%(a)s AS int), CAST(%(b)s AS int)",
                                {"a": row[0], "b": row[1]}) == [row]  # fmt: skip
        return thread

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(use, range(12), timeout=SECONDS)) == list(range(12))
    pool = database._opened
    assert isinstance(pool, OwnPool)
    assert pool._size <= 2
    assert len(pool._idle) == pool._size
    database.close()
    assert pool._size == 0


class Door:
    """Connects as often as it is told to, after so many failures."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures: list[SoniqError] = []

    def __call__(self) -> Connection:
        if self.failures:
            raise self.failures.pop()
        return Connection.connect(self.url, autocommit=True)


def test_a_server_that_was_reached_before_is_waited_for(url: str) -> None:
    door = Door(url)
    pool = OwnPool(door, settings(pool_max_size=1))
    first = pool.checkout()
    first.pgconn.finish()
    pool.give_back(first)
    door.failures = [ConnectionLost("away")] * 3
    connection = pool.checkout()
    assert connection.fetchval("SELECT 1") == 1
    pool.give_back(connection)
    pool.close()


@pytest.mark.parametrize("error", [ConnectionLost("away"), AccessDenied("no")])
def test_a_first_failure_is_heard_at_once_and_so_is_one_that_will_not_pass(
    url: str, error: SoniqError
) -> None:
    door = Door(url)
    pool = OwnPool(door, settings(pool_max_size=1))
    door.failures = [error]
    with pytest.raises(type(error)):
        pool.checkout()
    connection = pool.checkout()
    connection.pgconn.finish()
    pool.give_back(connection)
    door.failures = [AccessDenied("no longer")]
    with pytest.raises(AccessDenied, match="no longer"):
        pool.checkout()
    assert pool._size == 0, "its room is free again"


def test_a_close_ends_the_wait_for_a_server(url: str) -> None:
    door = Door(url)
    pool = OwnPool(door, settings(pool_max_size=1))
    connection = pool.checkout()
    connection.pgconn.finish()
    pool.give_back(connection)
    door.failures = [ConnectionLost("away")] * 10**4
    pool.close()
    pool._closed.clear()  # as for one who had passed the door before it closed
    with ThreadPoolExecutor(1) as thread:
        waiter = thread.submit(pool.checkout)
        pool.close()
        with pytest.raises(ConnectionLost):
            waiter.result(SECONDS)
    assert door.failures, "it did not go on trying"
