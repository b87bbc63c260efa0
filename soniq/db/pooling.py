"""What the pools of both colours have in common."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import Any, TypeVar

import psycopg

from soniq.errors import DatabaseTimeout, SoniqError, UsageError
from soniq.settings import Settings

from . import faults

C = TypeVar("C")

MAX_LIFETIME = 3600.0
"""Seconds after which a connection is replaced, less up to a tenth so that not all go at once."""
MAX_IDLE = 600.0
"""Seconds an unused connection beyond `pool_min_size` is kept."""
CHECK_AFTER = 30.0
"""Seconds of idleness after which a connection must answer before it is handed out."""
JUST_NOW = 0.005
"""Seconds after which a connection is looked at before it is handed out: has its server hung up?

A look costs 2 us; who comes sooner is as likely to meet the goodbye in the middle of a statement.
"""
CHECK_TIMEOUT = 5.0
"""Seconds it has for that answer, and for a rollback when it comes back with a transaction open."""

# The server is there and says "not now"; so it is worth while waiting, even the first time.
SOON = frozenset({"57P03", "53300"})


def delays(first: float = 0.05, most: float = 5.0) -> Iterator[float]:
    """Give the seconds to wait before each further attempt: doubling, with jitter, for ever."""
    delay = first
    while True:
        yield delay * (0.5 + random.random())  # noqa: S311
        delay = min(delay * 2, most)


def checked_pool(pool: Any, kind: type) -> Any:
    """A pool that a user gave, if it can be one of this colour.

    Args:
        pool: What was given.
        kind: What it must lend: `psycopg.Connection` or its async twin.

    Raises:
        UsageError: It is none.
    """
    lend = getattr(pool, "getconn", None)
    is_async = inspect.iscoroutinefunction(lend)
    if not callable(getattr(pool, "putconn", None)) or isinstance(pool, type):
        raise UsageError(
            f"pool= takes an open pool of psycopg_pool, not {_name(type(pool))}. Without one, "
            "Soniq makes its own from database_url."
        )
    if is_async is not issubclass(kind, psycopg.AsyncConnection):
        wanted, client = "a ConnectionPool", "Soniq"
        if not is_async:
            wanted, client = "an AsyncConnectionPool", "SoniqSync"
        raise UsageError(
            f"{_name(type(pool))} is for the other client. Pass {wanted}, or use {client}."
        )
    return pool


def checked_connection(made: Any, kind: type[C]) -> C:
    """A connection that a user's `connection_factory` made.

    Raises:
        UsageError: It is none, or of the other colour.
    """
    if isinstance(made, kind):
        return made
    if inspect.iscoroutine(made):
        made.close()
    raise UsageError(
        f"connection_factory made {_name(type(made))}, and this client needs {_name(kind)}."
    )


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def lending_failed(error: psycopg.Error, settings: Settings) -> SoniqError:
    """Translate what a pool of psycopg_pool says when it has no connection to give."""
    match type(error).__name__:
        case "PoolTimeout":
            return DatabaseTimeout(
                f"The pool that was passed gave no connection within {settings.pool_timeout:g} s. "
                "Raise its max_size, hold connections for a shorter time, or see whether the "
                "server is up; pool_timeout says how long to wait."
            )
        case "PoolClosed":
            return UsageError("The pool that was passed is not open. Open it first.")
        case _:
            return faults.translate(error, settings.schema)
