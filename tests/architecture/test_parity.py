"""Both clients have the same methods, parameters, defaults and words; so have their services."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from soniq import AsyncTask, Soniq, SoniqSync, SyncTask
from soniq.client.backend import AsyncBackend, Backend
from soniq.db.connection import AnyioConnection
from soniq.db.sync_connection import Connection
from soniq.services.dead_letter import AsyncDeadLetters, DeadLetters
from soniq.services.queues import AsyncQueues, Queues
from soniq.services.scheduler import AsyncScheduler, Scheduler

TWINS = [
    (Soniq, SoniqSync),
    (AsyncTask, SyncTask),
    (AsyncBackend, Backend),
    (AsyncDeadLetters, DeadLetters),
    (AsyncQueues, Queues),
    (AsyncScheduler, Scheduler),
]
ONLY_ASYNC = {(Soniq, "sync")}
OWN_NAMES = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
DIFFERENT_WORDS = {(Soniq, "run_worker")}


def public(kind: type) -> dict[str, Any]:
    names = [name for name in dir(kind) if not name.startswith("_") or name == "__init__"]
    return {name: inspect.getattr_static(kind, name) for name in names}


def parameters(member: Any) -> list[tuple[str, Any, Any]]:
    member = member.fget if isinstance(member, property) else member
    member = member.__func__ if isinstance(member, staticmethod | classmethod) else member
    if not isinstance(member, Callable):  # type: ignore[arg-type]
        return []
    found = inspect.signature(member).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


@pytest.mark.parametrize(("aio", "sync"), TWINS, ids=lambda kind: kind.__name__)
def test_the_twins_have_the_same_names(aio: type, sync: type) -> None:
    only = {name for kind, name in ONLY_ASYNC if kind is aio}
    assert set(public(aio)) - only == set(public(sync))


@pytest.mark.parametrize(("aio", "sync"), TWINS, ids=lambda kind: kind.__name__)
def test_the_twins_take_the_same_parameters_with_the_same_defaults(aio: type, sync: type) -> None:
    theirs = public(sync)
    for name, member in public(aio).items():
        if (aio, name) not in ONLY_ASYNC:
            assert parameters(member) == parameters(theirs[name]), name


@pytest.mark.parametrize(("aio", "sync"), TWINS, ids=lambda kind: kind.__name__)
def test_the_twins_say_the_same(aio: type, sync: type) -> None:
    theirs = public(sync)
    for name, member in public(aio).items():
        if (aio, name) in ONLY_ASYNC | DIFFERENT_WORDS or name == "__init__":
            continue
        assert inspect.getdoc(member) == inspect.getdoc(theirs[name]), name
        assert inspect.getdoc(member) or not callable(member), f"{name} has no words at all"


@pytest.mark.parametrize(("aio", "sync"), TWINS, ids=lambda kind: kind.__name__)
def test_the_twins_differ_in_colour_only(aio: type, sync: type) -> None:
    for name, member in public(sync).items():
        assert not inspect.iscoroutinefunction(member), f"{sync.__name__}.{name} is async"
    waiting = [name for name, member in public(aio).items() if inspect.iscoroutinefunction(member)]
    assert waiting or aio is AsyncBackend


def test_the_lent_connections_add_the_same_short_ways_to_fetch() -> None:
    for name in ("fetch", "fetchrow", "fetchval"):
        ours, theirs = getattr(AnyioConnection, name), getattr(Connection, name)
        assert parameters(ours) == parameters(theirs)
        assert inspect.getdoc(ours) == inspect.getdoc(theirs)
