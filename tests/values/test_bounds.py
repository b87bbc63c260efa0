"""How long a client remembers which queues may be full."""

from __future__ import annotations

from soniq.policy.bounds import FRESH_SECONDS, MOST_PLACES, OWN, Bounds


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_known_before_a_look() -> None:
    bounds = Bounds(Clock())
    assert not bounds.frees("q")
    assert bounds.at(OWN) is None


def test_a_look_is_good_for_some_seconds_from_its_beginning() -> None:
    clock = Clock()
    bounds = Bounds(clock)
    began, clock.now = clock.now, 1.0
    bounds.learn(OWN, {"full": 5}, began)
    assert bounds.frees("q")
    assert not bounds.frees("full")
    assert bounds.at(OWN) == {"full": 5}
    clock.now = FRESH_SECONDS
    assert not bounds.frees("q")
    assert bounds.at(OWN) is None


def test_databases_are_not_mixed_up() -> None:
    bounds = Bounds(Clock())
    bounds.learn("other", {}, 0.0)
    assert not bounds.frees("q")
    bounds.learn(OWN, {"q": 1}, 0.0)
    assert bounds.at("other") == {}


def test_it_forgets_when_told_and_when_it_is_too_much() -> None:
    bounds = Bounds(Clock())
    bounds.learn(OWN, {}, 0.0)
    bounds.forget()
    assert not bounds.frees("q")
    bounds.learn(OWN, {}, 0.0)
    for number in range(MOST_PLACES):
        bounds.learn(number, {}, 0.0)
    assert not bounds.frees("q")
