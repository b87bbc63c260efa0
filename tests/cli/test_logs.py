"""What is logged of each event, in lines for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from soniq import events
from soniq.events import Bus, Event
from soniq.observability import logs

JOB = ("0190", "app.task", "default", 2)

TOLD = [
    (
        events.JobRetried(*JOB, "E: x", 5.0),
        "WARNING",
        "job 0190 app.task failed in attempt 2: E: x",
    ),
    (events.JobDied(*JOB, "E: x", "all attempts used"), "ERROR", "(all attempts used): E: x"),
    (events.JobRescued(*JOB, "w1"), "WARNING", "its worker w1 fell silent"),
    (events.LeaseLost(*JOB), "WARNING", "somebody else's by now"),
    (events.JobOverran(*JOB, 3.0), "WARNING", "past its timeout after 3.0 s"),
    (events.JobFinished(*JOB, 0.5), "DEBUG", "done in 0.500 s"),
    (events.WorkerStarted("w1", (), 1), "INFO", "worker w1 is ready"),
    (events.WorkerStopped("w1", ()), "INFO", "worker w1 stopped"),
    (events.WorkerStopped("w1", ("0190",)), "ERROR", "left to be rescued: 0190"),
    (events.WorkerFenced("w1", 25.0), "ERROR", "could not report for 25.0 s"),
    (events.Listening(True), "INFO", "listening"),
    (events.Listening(False), "INFO", "polling"),
]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    soniq = logging.getLogger("soniq")
    handlers, level = soniq.handlers[:], soniq.level
    yield soniq
    soniq.handlers[:] = handlers
    soniq.setLevel(level)


def written(logger: logging.Logger, formatter: logging.Formatter, *told: Event) -> list[str]:
    """Log events at DEBUG; answer the lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.handlers[:] = [handler]
    logger.setLevel("DEBUG")
    bus = Bus()
    logs.subscribe(bus)
    for event in told:
        bus.emit(event)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(("event", "level", "said"), TOLD)
def test_an_event_is_one_line_of_its_level(
    logger: logging.Logger, event: Event, level: str, said: str
) -> None:
    (line,) = written(logger, logs.TextLines(colour=False), event)
    assert f" {level:<7} " in line
    assert said in line


@pytest.mark.parametrize(("event", "level", "said"), TOLD)
def test_a_machine_reads_the_events_fields(
    logger: logging.Logger, event: Event, level: str, said: str
) -> None:
    (line,) = written(logger, logs.JsonLines(), event)
    document = json.loads(line)
    assert document["event"] == type(event).__name__
    assert document["level"] == level.lower()
    assert said in document["message"]
    if isinstance(event, events.JobEvent):
        assert document["job_id"] == "0190"


def test_listening_is_told_once_for_each_change(logger: logging.Logger) -> None:
    states = [events.Listening(healthy) for healthy in (True, True, False, False, False, True)]
    assert len(written(logger, logs.TextLines(colour=False), *states)) == 3


def test_an_error_cannot_forge_a_second_line(logger: logging.Logger) -> None:
    event = events.JobDied(*JOB, "E: a\r\n2026-01-01 ERROR forged", "reason")
    for formatter in (logs.TextLines(colour=False), logs.JsonLines()):
        assert len(written(logger, formatter, event)) == 1


def test_finished_jobs_cost_nothing_unless_they_are_logged(logger: logging.Logger) -> None:
    logger.setLevel("INFO")
    bus = Bus()
    logs.subscribe(bus)
    assert not bus.wants(events.JobFinished)


def test_levels_are_coloured_where_a_person_looks(logger: logging.Logger) -> None:
    (line,) = written(logger, logs.TextLines(colour=True), events.JobRetried(*JOB, "E", 1.0))
    assert "\x1b[33mWARNING\x1b[0m" in line


@pytest.mark.parametrize("formatter", [logs.TextLines(colour=False), logs.JsonLines()])
def test_a_traceback_is_kept(logger: logging.Logger, formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.handlers[:] = [handler]
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        logging.getLogger("soniq.worker").exception("the hook failed")
    assert "ZeroDivisionError: why" in stream.getvalue()
    if isinstance(formatter, logs.JsonLines):
        assert "Traceback" in json.loads(stream.getvalue())["exception"]
