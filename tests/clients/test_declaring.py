"""What `@eq.job(...)` takes and refuses; no database is needed for any of it."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pytest

from soniq import (
    DuplicateTask,
    InvalidOption,
    SettingsError,
    Soniq,
    SoniqError,
    SoniqSync,
    UnknownOption,
)

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture(params=[Soniq, SoniqSync])
def eq(request: pytest.FixtureRequest) -> Any:
    return request.param(NOWHERE)


def test_the_decorator_works_with_and_without_parentheses(eq: Any) -> None:
    @eq.job
    def bare(a: int) -> int:
        """Double."""
        return a * 2

    @eq.job()
    def empty(a: int) -> int:
        return a * 2

    @eq.job("named")
    async def named(a: int) -> int:
        return a * 2

    assert bare(2) == empty(2) == 4
    assert bare.__doc__ == "Double."
    assert bare.name == f"{__name__}.{bare.function.__qualname__}"
    assert named.name == "named"
    assert named.is_async
    assert not bare.is_async
    assert eq.registry.get("named") is named


def test_every_option_reaches_the_task(eq: Any) -> None:
    def policy(error: BaseException, attempt: int, job: Any) -> float:
        return 1.0

    @eq.job(
        name="all",
        queue="q",
        priority=3,
        retries=5,
        retry_delay=timedelta(seconds=2),
        retry_backoff=True,
        retry_max_delay=60,
        retry_jitter=True,
        retry_policy=policy,
        retry_on=[KeyError],
        discard_on=ValueError,
        timeout=timedelta(minutes=1),
        executor="thread",
        tags=["a"],
    )
    def work() -> None: ...

    options = work.defaults
    assert (options.queue, options.priority, options.max_retries) == ("q", 3, 5)
    rule = options.retry
    assert (rule.delays, rule.backoff, rule.max_delay, rule.jitter) == ((2.0,), True, 60.0, True)
    assert options.retry_policy is policy
    assert (options.retry_on, options.discard_on) == ((KeyError,), (ValueError,))
    assert (options.timeout, options.no_timeout, options.tags) == (60.0, False, ("a",))


@pytest.mark.parametrize(
    ("timeout", "none"), [({}, False), ({"timeout": None}, True), ({"timeout": 0}, True)]
)
def test_no_timeout_is_told_from_none_said(eq: Any, timeout: Any, none: bool) -> None:
    task = eq.job("t", **timeout)(lambda: None)
    assert (task.defaults.timeout, task.defaults.no_timeout) == (None, none)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"quue": "x"}, "Did you mean 'queue'"),
        ({"uniqe": True}, "Did you mean 'unique'"),
        ({"rate_limits": "1/s"}, "Did you mean 'rate_limit'"),
        ({"eta": 1}, "no option named 'eta'"),
    ],
)
def test_an_option_that_does_not_exist_is_named(eq: Any, option: Any, says: str) -> None:
    with pytest.raises(UnknownOption, match=says):
        eq.job(**option)(lambda: None)
    assert len(eq.registry) == 0


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"queue": ""}, "queue must be text of 1 to 128"),
        ({"queue": "x" * 129}, "queue must be text of 1 to 128"),
        ({"queue": "a\0b"}, "cannot store"),
        ({"priority": 0}, "1 .first. to 1000"),
        ({"priority": True}, "1 .first. to 1000"),
        ({"max_retries": -1}, "0 to 10000"),
        ({"retries": 1, "max_retries": 1}, "two names of one option"),
        ({"retry_delay": -1}, "retry_delay must be between 0"),
        ({"retry_delay": []}, "empty list"),
        ({"retry_delay": [1], "retry_backoff": True}, "leave retry_backoff out"),
        ({"retry_policy": 3}, "retry_policy must be callable"),
        ({"retry_on": "KeyError"}, "exception types"),
        ({"discard_on": [int]}, "exception types"),
        ({"timeout": "5"}, "timeout takes seconds"),
        ({"timeout": float("nan")}, "timeout must be between"),
        ({"validate": int}, "pydantic model"),
        ({"validate": int, "args_model": int}, "two names of one option"),
        ({"executor": "fork"}, "'auto', 'async', 'thread' or 'process'"),
        ({"executor": "async"}, "needs an `async def`"),
        ({"tags": "abc"}, "list of words"),
        ({"name": ""}, "name must be text"),
        ({"name": "n" * 256}, "name must be text"),
        ({"name": 5}, "name must be text"),
    ],
)
def test_an_option_that_cannot_be_is_refused(eq: Any, option: Any, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        eq.job(**option)(lambda: None)
    assert len(eq.registry) == 0


def test_an_async_function_has_no_thread(eq: Any) -> None:
    async def work() -> None: ...

    with pytest.raises(InvalidOption, match="needs a `def`"):
        eq.job(executor="thread")(work)


def test_what_is_no_plain_function_is_refused(eq: Any) -> None:
    def numbers() -> Any:
        yield 1

    async def letters() -> Any:
        yield "a"

    class Callable:
        def __call__(self) -> None: ...

    for wrong in (numbers, letters):
        with pytest.raises(InvalidOption, match="generator"):
            eq.job(wrong)
    for wrong in (Callable(), Callable, functools.partial(print)):
        with pytest.raises(InvalidOption, match="decorates a function"):
            eq.job(wrong)


def test_two_tasks_of_one_name_are_refused(eq: Any) -> None:
    eq.job("twice")(lambda: 1)
    with pytest.raises(DuplicateTask, match="Two tasks are named 'twice'"):
        eq.job("twice")(lambda: 2)


def test_a_name_must_match_the_pattern() -> None:
    eq = SoniqSync(NOWHERE, task_name_pattern=r"[a-z.]+")
    with pytest.raises(InvalidOption, match="task_name_pattern"):
        eq.job("Loud")(lambda: 1)


@pytest.mark.parametrize("client", [Soniq, SoniqSync])
@pytest.mark.parametrize(
    ("keywords", "kind", "says"),
    [
        ({"concurency": 1}, UnknownOption, "Did you mean 'concurrency'"),
        ({"concurrency": "many"}, SettingsError, "concurrency="),
        ({"pool_min_size": 5, "pool_max_size": 1}, SettingsError, "pool_min_size"),
        ({"connection_factory": 1}, InvalidOption, "callable"),
        ({"connection_factory": dict, "pool": object()}, InvalidOption, "not both"),
        ({"retry_policy": 1}, InvalidOption, "retry_policy"),
        ({"plugins": [object()]}, InvalidOption, "install"),
        ({"database_url": 5}, SettingsError, "database_url="),
    ],
)
def test_an_application_refuses_what_cannot_be(
    client: Any, keywords: Any, kind: type[SoniqError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        client(**keywords)


def test_plugins_are_installed_in_order() -> None:
    seen: list[Any] = []

    class Plugin:
        def __init__(self, number: int) -> None:
            self.number = number

        def install(self, app: Any) -> None:
            seen.append((self.number, app))
            app.before_job(print)

    eq = Soniq(NOWHERE, plugins=[Plugin(1), Plugin(2)])
    assert seen == [(1, eq), (2, eq)]
    assert eq.hooks.before == [print, print]


def test_hooks_are_kept_in_order_and_stay_functions(eq: Any) -> None:
    @eq.before_job
    def first(ctx: Any) -> None: ...

    @eq.before_job
    async def second(ctx: Any) -> None: ...

    @eq.after_job
    def after(ctx: Any, result: Any) -> None: ...

    @eq.on_error
    def failed(ctx: Any, error: Any) -> None: ...

    @eq.middleware
    def around(ctx: Any, call_next: Any) -> Any:
        return call_next()

    assert eq.hooks.before == [first, second]
    assert (eq.hooks.after, eq.hooks.on_error) == ([after], [failed])
    assert eq.hooks.middleware == [around]
    with pytest.raises(InvalidOption, match="hook is a function"):
        eq.before_job(5)


def test_the_password_is_not_shown() -> None:
    eq = SoniqSync("postgresql://u:geheim@127.0.0.1:1/x")
    assert "geheim" not in repr(eq)
