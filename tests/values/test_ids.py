"""Ids of jobs sort by their moment and never meet."""

from __future__ import annotations

import threading
import time
import uuid

import pytest

from soniq.errors import UsageError
from soniq.job.ids import checked_id, new_id


def test_an_id_is_a_version_7_uuid_in_canonical_form() -> None:
    for _ in range(1000):
        made = uuid.UUID(text := new_id())
        assert str(made) == text
        assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_a_hundred_thousand_ids_are_unique_and_sorted_by_their_moment() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(100_000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    moments = [uuid.UUID(each).int >> 80 for each in ids]
    assert before <= moments[0] <= moments[-1] <= after
    # 12 bits below the millisecond: the order holds down to a quarter of a microsecond.
    numbers = [uuid.UUID(each).int for each in ids]
    ticks = [number >> 80 << 12 | (number >> 64 & 0xFFF) for number in numbers]
    assert ticks == sorted(ticks)


def test_threads_never_make_the_same_id() -> None:
    made: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: made.append([new_id() for _ in range(10_000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each for part in made for each in part}) == 40_000


def test_ids_of_one_tick_of_the_clock_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_900_000_000_000_000_000)
    ids = [new_id() for _ in range(10_000)]
    assert len({each[:18] for each in ids}) == 1
    assert len(set(ids)) == 10_000
    # Two processes begin their counters apart and share no chance.
    assert len({each[-14:] for each in ids}) == 10_000


@pytest.mark.parametrize("clock", [0, 2**48 * 1_000_000 - 1])
def test_every_moment_of_the_clock_fits(monkeypatch: pytest.MonkeyPatch, clock: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: clock)
    made = uuid.UUID(new_id())
    assert (made.version, made.int >> 80) == (7, clock // 1_000_000)


def test_an_id_is_taken_in_any_form_and_given_in_one() -> None:
    text = new_id()
    made = uuid.UUID(text)
    for form in (text, text.upper(), made, made.hex, f"{{{text}}}", made.urn):
        assert checked_id(form) == text


@pytest.mark.parametrize("bad", ["", "x", None, 7, "0" * 31, "g" * 32, b"x"])
def test_what_is_no_id_is_refused(bad: object) -> None:
    with pytest.raises(UsageError, match="not a job id"):
        checked_id(bad)
