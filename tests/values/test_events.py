"""Whoever listens is told, in order, and cannot harm the one who tells."""

from __future__ import annotations

import logging

import pytest

from soniq import events
from soniq.events import Bus, Event, JobDied, JobEvent, JobFinished, JobStarted, WorkerStopped

STARTED = JobStarted("id", "task", "q", 1)
FINISHED = JobFinished("id", "task", "q", 1, 0.5)


def test_subscribers_are_told_in_order_of_what_they_asked_for() -> None:
    bus, heard = Bus(), []
    bus.subscribe(JobStarted, lambda e: heard.append(("started", e)))
    bus.subscribe(Event, lambda e: heard.append(("any", e)))
    bus.subscribe(JobEvent, lambda e: heard.append(("job", e)))
    bus.emit(STARTED)
    bus.emit(FINISHED)
    bus.emit(stopped := WorkerStopped("w", ()))
    assert heard == [
        ("started", STARTED), ("any", STARTED), ("job", STARTED),
        ("any", FINISHED), ("job", FINISHED),
        ("any", stopped),
    ]  # fmt: skip


def test_a_subscriber_that_fails_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, heard = Bus(), []

    def broken(event: Event) -> None:
        raise RuntimeError("boom")

    bus.subscribe(Event, broken)
    bus.subscribe(Event, heard.append)
    with caplog.at_level(logging.ERROR, "soniq.events"):
        bus.emit(STARTED)
    assert heard == [STARTED]
    assert "boom" in caplog.text
    assert "JobStarted" in caplog.text


def test_a_subscriber_may_leave_the_process() -> None:
    bus = Bus()

    def leave(event: Event) -> None:
        raise KeyboardInterrupt

    bus.subscribe(Event, leave)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(STARTED)


def test_hot_paths_learn_whether_anybody_listens() -> None:
    bus = Bus()
    assert not bus.wants(JobStarted)
    bus.subscribe(JobDied, lambda e: None)
    assert bus.wants(JobDied)
    assert not bus.wants(JobStarted)
    bus.subscribe(JobEvent, lambda e: None)
    assert bus.wants(JobStarted)
    assert not bus.wants(WorkerStopped)


def test_every_event_is_a_frozen_value() -> None:
    kinds = [
        kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)
    ]
    assert len(kinds) >= 15
    for kind in kinds:
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert kind.__doc__
