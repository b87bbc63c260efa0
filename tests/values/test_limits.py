"""What tasks may declare of limits, and how the keys of their jobs are made."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq import CircuitBreaker, Soniq
from soniq.errors import InvalidArguments, InvalidOption
from soniq.job.limits import Limits, Pace, key_of
from soniq.policy.limits import burst_of, limits_of


def by_account(account: int, **_: Any) -> int:
    return account


def test_nothing_said_is_no_limit() -> None:
    assert limits_of({"queue": "a"}) is None


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({"concurrency": 3}, Limits(concurrency=3)),
        (
            {"concurrency": 3, "concurrency_key": "account"},
            Limits(key="account", key_concurrency=3),
        ),
        ({"ordered_by": "account"}, Limits(key="account", ordered=True)),
        (
            {"ordered_by": by_account, "concurrency": 9},
            Limits(key=by_account, ordered=True, concurrency=9),
        ),
        (
            {"ordered_by": "account", "ordered_retry": "step_aside"},
            Limits(key="account", key_concurrency=1),
        ),
        ({"rate_limit": "100/minute"}, Limits(pace=Pace(0.6, 1))),
        ({"rate_limit": "1000/s"}, Limits(pace=Pace(0.001, 100))),
        ({"rate_limit": "5/10s", "rate_burst": 5}, Limits(pace=Pace(2.0, 5))),
        (
            {"rate_limit": "1/s", "rate_key": "account"},
            Limits(key="account", pace=Pace(1.0, 1), rate_by_key=True),
        ),
        ({"fair_by": "account"}, Limits(key="account")),
        (
            {"fair_by": "account", "fair_weights": {7: 3}, "concurrency": 2},
            Limits(key="account", weights={"7": 3.0}, concurrency=2),
        ),
        (
            {"breaker": CircuitBreaker(failures=2)},
            Limits(breaker=CircuitBreaker(2, 60.0, 30.0)),
        ),
    ],
)
def test_options_make_limits(given: dict[str, Any], limits: Limits) -> None:
    assert limits_of(given) == limits


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"concurrency": 0}, "whole number"),
        ({"concurrency": True}, "whole number"),
        ({"concurrency_key": "account"}, "give concurrency too"),
        ({"concurrency": 2, "concurrency_key": "a", "ordered_by": "a"}, "one at a time"),
        ({"concurrency": 2, "concurrency_key": "a", "fair_by": "b"}, "not the same"),
        ({"ordered_by": 3}, "name of a parameter"),
        ({"ordered_by": ""}, "name of a parameter"),
        ({"ordered_retry": "hold"}, "goes with ordered_by"),
        ({"ordered_by": "a", "ordered_retry": "wait"}, "'hold' or 'step_aside'"),
        ({"rate_limit": "many"}, "100/minute"),
        ({"rate_burst": 3}, "rate_limit"),
        ({"rate_key": "a"}, "rate_limit"),
        ({"rate_limit": "1/s", "rate_burst": 0}, "whole number"),
        ({"rate_limit": "1/1000 days", "rate_burst": 100}, "rate_burst is at most"),
        ({"fair_weights": {"a": 2}}, "goes with fair_by"),
        ({"fair_by": "a", "fair_weights": {"a": 0}}, "above 0"),
        ({"fair_by": "a", "fair_weights": 3}, "a dict"),
        ({"breaker": 5}, "CircuitBreaker"),
        ({"breaker": CircuitBreaker(by_key=True)}, "needs a key"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        limits_of(given)


@pytest.mark.parametrize(
    "given", [{"failures": 0}, {"failures": True}, {"window": 0}, {"pause": -1}, {"pause": "1"}]
)
def test_a_breaker_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        CircuitBreaker(**given)


def test_a_key_must_be_a_parameter() -> None:
    app = Soniq("postgresql://nowhere")

    with pytest.raises(InvalidOption, match=r"'acount'.*account"):

        @app.job(ordered_by="acount")
        async def bill(account: int) -> None: ...


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), ("a/b", "a/b"), (None, ""), (True, "True"), (UUID(int=1), str(UUID(int=1)))],
)
def test_a_key_is_written_as_text(value: object, text: str) -> None:
    assert key_of("account", {"account": value}) == text
    assert key_of(lambda account: account, {"account": value}) == text


@pytest.mark.parametrize("value", ["x" * 256, "a\0b", "\ud800"])
def test_a_key_that_cannot_be_stored_is_refused(value: str) -> None:
    with pytest.raises(InvalidArguments, match="key of a limit"):
        key_of("account", {"account": value})


def test_a_function_that_fails_says_so_at_the_enqueue() -> None:
    with pytest.raises(InvalidArguments, match="KeyError"):
        key_of(lambda **_: {}["nothing"], {"account": 1})


def test_what_a_caller_leaves_out_is_the_default_of_the_parameter() -> None:
    app = Soniq("postgresql://nowhere")

    @app.job(ordered_by="account")
    async def bill(amount: int, account: str = "house") -> None: ...

    assert bill.gate({"amount": 1}) == "ohouse"
    assert bill.gate({"amount": 1, "account": 7}) == "o7"


@given(st.floats(1e-6, 1e6))
def test_a_burst_is_at_least_one_and_what_comes_in_a_tenth_of_a_second(pace: float) -> None:
    burst = burst_of(pace)
    assert burst >= 1
    assert (burst - 1) * pace <= 0.1 + 1e-6


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1001, True, "3", None])
def test_a_weight_that_a_function_should_not_answer_is_refused(weight: Any) -> None:
    """Not a number went to the database as it was, which refused every claim of the worker."""
    limits = limits_of({"fair_by": "a", "fair_weights": lambda key: weight})
    assert limits is not None
    with pytest.raises(InvalidOption, match="A weight is a number above 0"):
        limits.weight("kx")
