"""How long, and of what, a client remembers that nobody was idle."""

from __future__ import annotations

from soniq.policy import waking
from soniq.policy.waking import FRESH_SECONDS, Waking
from soniq.worker import fetch


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_look_that_found_nobody_is_good_for_a_moment() -> None:
    clock = Clock()
    memory = Waking(clock)
    assert not memory.is_needless("db", "a")
    memory.found_nobody("db", "a", clock())
    clock.now += 0.9 * FRESH_SECONDS
    assert memory.is_needless("db", "a")
    clock.now += 0.2 * FRESH_SECONDS
    assert not memory.is_needless("db", "a")


def test_the_moment_counts_from_before_the_look() -> None:
    clock = Clock()
    memory = Waking(clock)
    began = clock()
    clock.now += FRESH_SECONDS
    memory.found_nobody("db", "a", began)
    assert not memory.is_needless("db", "a")


def test_it_says_nothing_of_other_queues_and_databases_nor_of_one_that_is_not_known() -> None:
    memory = Waking(Clock())
    memory.found_nobody("db", "a", 0.0)
    memory.found_nobody(None, "a", 0.0)
    assert memory.is_needless("db", "a")
    assert not memory.is_needless("db", "b")
    assert not memory.is_needless("other", "a")
    assert not memory.is_needless(None, "a")


def test_it_keeps_few_queues_in_memory() -> None:
    memory = Waking(Clock())
    for number in range(5 * waking.MOST_QUEUES):
        memory.found_nobody("db", str(number), 0.0)
        assert memory.is_needless("db", str(number))
    assert len(memory._nobody) <= waking.MOST_QUEUES


def test_no_worker_falls_asleep_within_the_moment() -> None:
    """A worker lingers longer after its last job than a client goes without a look.

    It sees a job at its next look at the latest, and has to be told of it by then.
    """
    seen_after = fetch.LONGEST_PAUSE_SECONDS
    assert FRESH_SECONDS + seen_after < 0.6 * fetch.LINGER_SECONDS
    assert FRESH_SECONDS < 0.5 * fetch.FIRST_NAP_SECONDS, "what is overlooked is found soon"
