"""What is decided, apart from clocks, dice and databases."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from soniq.errors import InvalidArguments, InvalidOption
from soniq.job.options import RetryRule, TaskOptions, retry_rule
from soniq.job.outcome import (
    AlreadyWritten,
    Cancel,
    CancelAsked,
    Discard,
    Interrupted,
    Raised,
    Retry,
    Returned,
    Snooze,
    TimedOut,
)
from soniq.job.record import Claimed, JobStatus
from soniq.policy import lifecycle, retry, turns
from soniq.policy.lifecycle import (
    TRANSITIONS,
    Again,
    Bury,
    Drop,
    Finish,
    Later,
    Nothing,
    Release,
    judge,
)
from soniq.policy.shutdown import Patience, Phase, phase_after

# -- retry

TABLE: list[tuple[dict[str, Any], list[float]]] = [
    ({"delay": 10}, [10, 10, 10, 10]),
    ({"delay": [5, 30, 300]}, [5, 30, 300, 300, 300]),
    ({"delay": 10, "backoff": True}, [10, 20, 40, 80]),
    ({"delay": 0, "backoff": True}, [1, 2, 4, 8]),
    ({"delay": 0}, [0, 0, 0]),
    ({"delay": 900, "backoff": True, "max_delay": 3600}, [900, 1800, 3600, 3600]),
    ({"delay": [5, 30, 300], "max_delay": 60}, [5, 30, 60, 60]),
    ({"delay": 100, "max_delay": 7}, [7, 7]),
    ({"jitter": False}, [1, 2, 4, 8, 16]),
    ({"jitter": False, "max_delay": 5}, [1, 2, 4, 5, 5]),
    ({"jitter": False, "backoff": False}, [1, 1, 1]),
]  # fmt: skip


def rule(**given: Any) -> RetryRule:
    names = ("delay", "backoff", "max_delay", "jitter")
    return retry_rule(*(given.get(name) for name in names))


@pytest.mark.parametrize(("options", "delays"), TABLE, ids=[str(row) for row, _ in TABLE])
def test_each_row_of_the_table_of_retries(options: dict[str, Any], delays: list[float]) -> None:
    chosen = rule(**options)
    assert [retry.delay(chosen, n, draw=0.9) for n in range(1, len(delays) + 1)] == delays


def test_nothing_given_is_exponential_from_a_second_with_jitter_and_at_most_an_hour() -> None:
    chosen = rule()
    assert [retry.delay(chosen, n, draw=0.0) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert retry.delay(chosen, 3, draw=0.5) == 3.0
    assert retry.delay(chosen, 50, draw=0.0) == 1800
    assert 3599 < retry.delay(chosen, 50, draw=0.9999) < 3600


_seconds = st.floats(0, 1e6)
_rules = st.builds(
    RetryRule,
    st.lists(_seconds, min_size=1, max_size=5).map(tuple),
    st.booleans(),
    st.none() | _seconds,
    st.booleans(),
)
_draws = st.floats(0, 1, exclude_max=True)


@given(_rules, st.integers(1, 10_000), _draws)
def test_a_delay_is_never_negative_nor_longer_than_its_cap(
    chosen: RetryRule, n: int, draw: float
) -> None:
    seconds = retry.delay(chosen, n, draw=draw)
    assert 0 <= seconds <= 3_155_760_000
    if chosen.max_delay is not None:
        assert seconds <= chosen.max_delay


@given(_rules, st.integers(1, 10_000), _draws)
def test_jitter_leaves_half_of_the_delay_to_chance(chosen: RetryRule, n: int, draw: float) -> None:
    full = retry.delay(replace(chosen, jitter=False), n, draw=draw)
    shaken = retry.delay(replace(chosen, jitter=True), n, draw=draw)
    assert full / 2 <= shaken <= full


@given(_rules, st.integers(max_value=0))
def test_the_first_retry_is_one(chosen: RetryRule, n: int) -> None:
    with pytest.raises(ValueError, match="the first retry is 1"):
        retry.delay(chosen, n, draw=0)


@pytest.mark.parametrize(
    "options",
    [{"delay": []}, {"delay": [1], "backoff": True}, {"delay": -1}, {"delay": [1, -1]},
     {"delay": float("nan")}, {"delay": "10"}, {"delay": True}, {"delay": 1, "max_delay": -1}],
    ids=str,
)  # fmt: skip
def test_delays_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="retry_"):
        rule(**options)


# -- lifecycle

PLAIN = RetryRule((10.0,), backoff=False, max_delay=None, jitter=False)
OPTIONS = TaskOptions(retry=PLAIN)


def claimed(*, attempt: int = 1, max_attempts: int = 4, snoozes: int = 0) -> Claimed:
    now = datetime.now(UTC)
    return Claimed(
        "id", "task", "q", "{}", attempt, max_attempts, snoozes, 100, now, now, None, None, None
    )


def verdict(ending: Any, options: TaskOptions = OPTIONS, **more: Any) -> Any:
    job = claimed(**{key: more.pop(key) for key in ("attempt", "snoozes") if key in more})
    return judge(ending, job, options, **{"draw": 0.5, "snooze_max": 3, **more})


def test_endings_that_leave_nothing_to_decide() -> None:
    assert verdict(Returned("1")) == Finish("1")
    assert verdict(Returned(None)) == Finish(None)
    assert verdict(AlreadyWritten()) == Nothing()
    assert verdict(Interrupted()) == Release()
    assert verdict(Interrupted(), attempt=4) == Release()
    assert verdict(CancelAsked()) == Drop("cancelled while it ran")


@pytest.mark.parametrize(
    ("ending", "outcome", "error"),
    [
        (Raised(KeyError("x")), "failed", "KeyError: 'x'"),
        (Raised(KeyError()), "failed", "KeyError"),
        (
            TimedOut(2.0),
            "timed_out",
            "JobTimeout: The attempt took longer than its timeout of 2 s.",
        ),
    ],
)
def test_a_failure_is_retried_until_its_attempts_are_used(
    ending: Any, outcome: str, error: str
) -> None:
    for attempt in (1, 2, 3):
        again = verdict(ending, attempt=attempt)
        assert isinstance(again, Again)
        assert again.delay == 10.0
        assert (again.failure.outcome, again.failure.error) == (outcome, error)
    buried = verdict(ending, attempt=4)
    assert isinstance(buried, Bury)
    assert (buried.reason, buried.failure.outcome) == ("all attempts used", outcome)


SIGNALS: list[tuple[Exception, dict[str, Any], Any]] = [
    (Snooze(7), {}, Later(7)),
    (Snooze(7), {"attempt": 4}, Later(7)),
    (Snooze(7), {"snoozes": 2}, Later(7)),
    (Snooze(7), {"snoozes": 3}, Bury),
    (Retry(), {}, Again),
    (Retry(after=3), {"attempt": 3}, Again),
    (Retry(after=3), {"attempt": 4}, Bury),
    (Cancel("no"), {}, Drop("no")),
    (Cancel(), {"attempt": 4}, Drop("cancelled by the handler")),
    (Discard("no"), {}, Bury),
]


@pytest.mark.parametrize(("signal", "job", "expected"), SIGNALS, ids=repr)
def test_a_handler_gets_what_it_asks_for(
    signal: Exception, job: dict[str, Any], expected: Any
) -> None:
    found = verdict(Raised(signal), **job)
    assert found == expected or (isinstance(expected, type) and isinstance(found, expected))


def test_a_retry_waits_as_asked_or_as_the_options_say() -> None:
    assert verdict(Raised(Retry(after=3))).delay == 3
    assert verdict(Raised(Retry(after=0))).delay == 0
    assert verdict(Raised(Retry())).delay == 10
    assert verdict(Raised(Retry(reason="busy"))).failure.error == "Retry: busy"


def test_a_discard_says_why() -> None:
    buried = verdict(Raised(Discard("bad address")))
    assert (buried.reason, buried.failure.outcome) == ("bad address", "discarded")


def test_signals_are_obeyed_whatever_is_retried() -> None:
    """`retry_on` and `discard_on` are about errors."""
    options = TaskOptions(retry=PLAIN, retry_on=(OSError,), discard_on=(Exception,))
    assert verdict(Raised(Snooze(1)), options) == Later(1)
    assert isinstance(verdict(Raised(Retry()), options), Again)


@pytest.mark.parametrize(
    ("options", "error", "again"),
    [
        ({"retry_on": (OSError,)}, ConnectionError(), True),
        ({"retry_on": (OSError,)}, KeyError(), False),
        ({"retry_on": ()}, KeyError(), False),
        ({"discard_on": (LookupError,)}, KeyError(), False),
        ({"discard_on": (LookupError,)}, OSError(), True),
        ({"retry_on": (OSError,), "discard_on": (ConnectionError,)}, ConnectionError(), False),
        ({"retry_on": (OSError,)}, InvalidArguments("another release"), True),
        ({"discard_on": (ValueError,)}, InvalidArguments("another release"), False),
    ],
    ids=str,
)
def test_retry_on_and_discard_on_choose_by_type(
    options: dict[str, Any], error: Exception, again: bool
) -> None:
    found = verdict(Raised(error), TaskOptions(retry=PLAIN, **options))
    assert isinstance(found, Again if again else Bury)
    if not again:
        assert type(error).__name__ in found.reason


def test_timeouts_are_retried_whatever_errors_are() -> None:
    assert isinstance(verdict(TimedOut(1), TaskOptions(retry=PLAIN, retry_on=(OSError,))), Again)


def test_a_policy_of_the_users_own_decides_about_failures_only() -> None:
    error = Raised(KeyError())
    assert verdict(error, policy_asked=True, policy_delay=2.5).delay == 2.5
    assert verdict(error, policy_asked=True, policy_delay=0.0).delay == 0.0
    said_no = verdict(error, policy_asked=True, policy_delay=None)
    assert said_no.reason == "the retry policy said no more"
    assert verdict(error, policy_asked=True, policy_delay=1.0, attempt=4).reason == (
        "all attempts used"
    )
    assert verdict(Returned(None), policy_asked=True) == Finish(None)
    assert verdict(Raised(Snooze(1)), policy_asked=True) == Later(1)


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_that_cannot_be_read_is_still_written_down() -> None:
    found = verdict(Raised(Broken()))
    assert found.failure.error == "Broken: (its message could not be read)"


@given(st.text(st.characters()))
def test_what_is_written_down_is_always_storable(said: str) -> None:
    try:
        raise ValueError(said)
    except ValueError as error:
        found = verdict(Raised(error))
    for text, longest in ((found.failure.error, 2000), (found.failure.traceback, 8000)):
        assert "\0" not in text
        text.encode()
        assert len(text) <= longest + 3
    short = len(said) < 500 and said.isprintable()
    assert not short or found.failure.error == (f"ValueError: {said}" if said else "ValueError")


def test_long_messages_keep_both_ends() -> None:
    text = lifecycle.cleaned("a" * 5000 + "b" * 5000, 2000)
    assert text == "a" * 1000 + " … " + "b" * 1000


def test_no_event_leads_out_of_an_end() -> None:
    assert not [state for state, _ in TRANSITIONS if state.ended]
    assert {state for state, _ in TRANSITIONS} == {s for s in JobStatus if not s.ended}
    assert set(TRANSITIONS.values()) == set(JobStatus)


# -- turns

_lanes = st.integers(0, 100).map(lambda count: [f"queue {n}" for n in range(count)])


@given(st.integers(-3, 500), _lanes)
def test_shares_sum_up_and_differ_by_one_at_most(wanted: int, lanes: list[str]) -> None:
    split = turns.shares(wanted, lanes)
    assert sum(split.values()) == (max(0, wanted) if lanes else 0)
    assert list(split) == lanes[: min(max(0, wanted), turns.MOST_LANES)]
    every = split.values() or [0]
    assert max(every) - min(every) <= 1


@given(st.integers(1, 500), _lanes)
def test_every_queue_gets_its_turn_and_nobody_more_of_them(wanted: int, lanes: list[str]) -> None:
    """A deep queue never starves a shallow one, even where a claim is of one job."""
    assume(lanes)
    at_once = min(wanted, len(lanes), turns.MOST_LANES)
    asked_at = dict.fromkeys(lanes, -1)
    total: Counter[str] = Counter()
    order = lanes
    for claim in range(len(lanes)):
        split = turns.shares(wanted, order)
        order = turns.after(order, split, dry=())
        for lane in split:
            assert claim - asked_at[lane] <= math.ceil(len(lanes) / at_once)
            asked_at[lane] = claim
        total.update(split)
    assert min(asked_at.values()) >= 0
    assert at_once < len(lanes) or set(total.values()) == {wanted}


def test_a_queue_without_work_leaves_the_round() -> None:
    assert turns.after(["a", "b", "c", "d"], {"a": 2, "b": 1, "c": 1}, dry=["b"]) == ["d", "c", "a"]


_jobs = st.lists(st.tuples(st.sampled_from("abcde"), st.integers()), max_size=60)


def _queue(job: tuple[str, int]) -> str:
    return job[0]


@given(_jobs)
def test_jobs_that_wait_take_turns_by_queue_and_keep_the_order_of_each(
    jobs: list[tuple[str, int]],
) -> None:
    dealt = turns.deal(jobs, _queue)
    assert turns.deal(dealt, _queue) == dealt
    before: Counter[str] = Counter()
    for queue, _ in dealt:
        left = [other for other in "abcde" if before[other] < sum(q == other for q, _ in jobs)]
        assert all(before[queue] <= before[other] for other in left)
        before[queue] += 1
    for queue in "abcde":
        assert [job for job in dealt if job[0] == queue] == [job for job in jobs if job[0] == queue]


@given(_jobs, _jobs)
def test_what_comes_later_from_another_queue_never_goes_before_the_first_of_each(
    jobs: list[tuple[str, int]], later: list[tuple[str, int]]
) -> None:
    dealt = turns.deal(jobs, _queue)
    firsts = list(dict.fromkeys(map(_queue, dealt)))
    assert list(map(_queue, turns.deal([*dealt, *later], _queue)))[: len(firsts)] == firsts


def test_a_queue_that_gave_less_than_was_asked_is_shallow_for_a_while() -> None:
    shallow = turns.Shallow()
    shallow.learn({"deep": 9, "a": 9, "b": 9}, {"deep": 9, "a": 8}, 10.0)
    assert shallow.few(10.9) == ("a",)
    assert shallow.few(11.0) == ()
    shallow.learn({"a": 9}, {"a": 8}, 12.0)
    shallow.learn({"a": 9}, {"a": 9}, 12.1)
    assert shallow.few(12.1) == ()


def test_many_shallow_queues_are_not_asked_each_time() -> None:
    shallow = turns.Shallow()
    some = [f"queue-{n}" for n in range(turns.FEW_LANES)]
    shallow.learn(dict.fromkeys(some, 2), dict.fromkeys(some, 1), 10.0)
    assert list(shallow.few(10.0)) == some
    shallow.learn({"one more": 2}, {"one more": 1}, 10.5)
    assert shallow.few(10.5) == ()
    assert shallow.few(11.2) == ("one more",)


def test_a_queue_that_gives_nothing_is_asked_less_and_less_often_until_it_gives() -> None:
    barren, now = turns.Barren(), 100.0
    pauses = []
    for _ in range(10):
        barren.learn(["a", "b"], {"b": 1}, now)
        began = now
        while barren.rests("a", now):
            now += 0.005
        pauses.append(now - began)
        assert not barren.rests("b", now)
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(turns.LEAST_PAUSE_SECONDS, abs=0.006)
    assert pauses[-1] == pytest.approx(turns.MOST_PAUSE_SECONDS, abs=0.006)
    barren.learn(["a"], {}, now)
    assert barren.rests("a", now)
    barren.keep(["a"])
    assert barren.rests("a", now)
    barren.learn(["a"], {"a": 1}, now)
    assert not barren.rests("a", now)
    barren.learn(["a"], {}, now)
    barren.keep(["b"])
    assert not barren.rests("a", now)


@given(st.floats(0, 1e9), st.integers(0, 10_000), st.floats(0.001, 10))
def test_no_more_is_held_ahead_than_will_soon_be_done(
    pace: float, cap: int, horizon: float
) -> None:
    ahead = turns.ahead(pace, cap=cap, horizon_seconds=horizon)
    assert 0 <= ahead <= cap
    assert ahead <= pace * horizon
    assert ahead == cap or ahead > pace * horizon - 1


# -- shutdown

_phases = st.sampled_from(Phase)
_moments = st.floats(0, 1e6)
PATIENCE = Patience(drain=30, grace=20)


@given(_phases, st.integers(0, 100), st.integers(0, 5), _moments, _moments, _moments, _moments)
def test_a_worker_never_goes_back(
    phase: Phase, running: int, signals: int, stop: float, abort: float, drain: float, grace: float
) -> None:
    after = phase_after(
        phase,
        running=running,
        signals=signals,
        stopping_seconds=stop,
        aborting_seconds=abort,
        patience=Patience(drain, grace),
    )
    assert after >= phase
    assert signals > 0 or after is phase


@pytest.mark.parametrize(
    ("phase", "given_", "after"),
    [
        (Phase.RUNNING, {}, Phase.RUNNING),
        (Phase.RUNNING, {"running": 0}, Phase.RUNNING),
        (Phase.RUNNING, {"signals": 1}, Phase.DRAINING),
        (Phase.RUNNING, {"signals": 1, "running": 0}, Phase.STOPPED),
        (Phase.RUNNING, {"signals": 2}, Phase.ABORTING),
        (Phase.DRAINING, {"signals": 1, "stopping_seconds": 29.9}, Phase.DRAINING),
        (Phase.DRAINING, {"signals": 1, "stopping_seconds": 30.0}, Phase.ABORTING),
        (Phase.DRAINING, {"signals": 2}, Phase.ABORTING),
        (Phase.DRAINING, {"signals": 1, "running": 0}, Phase.STOPPED),
        (Phase.ABORTING, {"signals": 1, "aborting_seconds": 19.9}, Phase.ABORTING),
        (Phase.ABORTING, {"signals": 9, "aborting_seconds": 19.9}, Phase.ABORTING),
        (Phase.ABORTING, {"signals": 1, "aborting_seconds": 20.0}, Phase.STOPPED),
        (Phase.ABORTING, {"signals": 1, "running": 0}, Phase.STOPPED),
        (Phase.STOPPED, {"signals": 3}, Phase.STOPPED),
    ],
)
def test_each_phase_is_entered_as_the_table_says(
    phase: Phase, given_: dict[str, Any], after: Phase
) -> None:
    now = {"running": 1, "signals": 0, "stopping_seconds": 0.0, "aborting_seconds": 0.0}
    assert phase_after(phase, patience=PATIENCE, **{**now, **given_}) is after
