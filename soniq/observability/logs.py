"""The log: how lines of the `soniq` logger look, and what is told of each event."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TextIO

from .. import events
from ..events import Bus, Event, JobEvent

log = logging.getLogger("soniq.worker")

# As Python names every process that nobody named.
_UNNAMED = {None, "MainProcess"}
_COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "31;1", "DEBUG": "2"}


def configure(
    level: str, form: str, *, stream: TextIO | None = None, colour: bool = False
) -> logging.Handler | None:
    """Set up the `soniq` logger for a process that is ours, such as the command line's.

    An application that configured logging itself keeps its handlers: they get our lines, and only
    the level is set.

    Args:
        level: The name of a level.
        form: `text` for people, `json` for machines: one object a line.
        stream: Where lines go; stderr by default.
        colour: Whether levels are coloured; text only.

    Returns:
        The handler that was added, or None.
    """
    logger = logging.getLogger("soniq")
    logger.setLevel(level)
    if logging.getLogger().handlers or logger.handlers:
        return None
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines(colour=colour))
    logger.addHandler(handler)
    return handler


def name_process(name: str) -> None:
    """Name this process in its log lines, and in those of an application that shows such names."""
    from multiprocessing import current_process

    current_process().name = name  # a `LogRecord` takes its `processName` from there


class TextLines(logging.Formatter):
    """Lines such as `2026-01-31 12:00:00.123 WARNING job ... failed`, in local time."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, and a traceback below it if there is one."""
        moment = datetime.fromtimestamp(record.created).astimezone().replace(tzinfo=None)
        level = f"{record.levelname:<7}"
        if self._colour and record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        shown = moment.isoformat(" ", "milliseconds")
        named = record.processName not in _UNNAMED
        line = f"{shown} {level} {f'[{record.processName}] ' if named else ''}{_one_line(record)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one object; a traceback is its field `exception`."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({} if record.processName in _UNNAMED else {"process": record.processName}),
            "message": _one_line(record),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def _one_line(record: logging.LogRecord) -> str:
    # A handler's error may hold anything: a line break would forge a second line.
    return record.getMessage().replace("\r", "\\r").replace("\n", "\\n")


# -- events


def subscribe(bus: Bus) -> None:
    """Log what happens, one line for each event; call it after the level was set."""
    for kind, (level, said) in _SAID.items():
        bus.subscribe(kind, _teller(level, said))
    bus.subscribe(events.WorkerStopped, _stopped)
    bus.subscribe(events.Listening, _OnChange())
    bus.subscribe(events.SchedulesDeclared, _declared)
    bus.subscribe(events.BreakerOpened, _breaker_opened)
    # Happens thousands of times a second, and costs nothing while nobody subscribes.
    if log.isEnabledFor(logging.DEBUG):
        bus.subscribe(events.JobFinished, _teller(logging.DEBUG, _finished))


def _teller(level: int, said: Callable[..., str]) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        if log.isEnabledFor(level):
            _log(level, said(event), event)

    return tell


class _OnChange:
    """Tells whether notifications arrive, once for each change."""

    def __init__(self) -> None:
        self._healthy: bool | None = None

    def __call__(self, event: events.Listening) -> None:
        if event.healthy is self._healthy:
            return
        self._healthy = event.healthy
        said = "listening: new jobs start at once"
        if not event.healthy:
            said = "notifications do not arrive; polling every poll_interval instead"
        _log(logging.INFO, said, event)


def _log(level: int, said: str, event: Event) -> None:
    fields = {"event": type(event).__name__, **asdict(event)}
    log.log(level, "%s", said, extra={"fields": fields})


def _job(event: JobEvent) -> str:
    return f"job {event.job_id} {event.task}"


def _finished(event: events.JobFinished) -> str:
    return f"{_job(event)} done in {event.seconds:.3f} s"


def _retried(event: events.JobRetried) -> str:
    return (
        f"{_job(event)} failed in attempt {event.attempt}: {event.error}; "
        f"again in {event.delay:g} s"
    )


def _died(event: events.JobDied) -> str:
    return (
        f"{_job(event)} is a dead letter after attempt {event.attempt} ({event.reason}): "
        f"{event.error}"
    )


def _rescued(event: events.JobRescued) -> str:
    return f"{_job(event)} went back to its queue: its worker {event.worker_id} fell silent"


def _lease_lost(event: events.LeaseLost) -> str:
    return f"{_job(event)} attempt {event.attempt} ended, but the job is somebody else's by now"


def _overran(event: events.JobOverran) -> str:
    return (
        f"{_job(event)} is past its timeout after {event.seconds:.1f} s; a thread cannot be killed "
        "and keeps its slot until it ends"
    )


def _breaker_opened(event: events.BreakerOpened) -> None:
    how = "is stopped again: the job that tried it failed" if event.again else "is stopped"
    said = f"{_broken(event)} {how}; the next is tried in {event.seconds:g} s"
    _log(logging.INFO if event.again else logging.WARNING, said, event)


def _breaker_closed(event: events.BreakerClosed) -> str:
    return f"{_broken(event)} runs again: a job of it went well"


def _broken(event: events.BreakerOpened | events.BreakerClosed) -> str:
    key = "" if event.key is None else f" key {event.key!r} of"
    return f"circuit breaker:{key} task {event.task}"


def _started(event: events.WorkerStarted) -> str:
    return f"worker {event.worker_id} is ready"


def _stopped(event: events.WorkerStopped) -> None:
    if event.left:
        said = "stopped, but threads did not end; their jobs are left to be rescued: "
        _log(logging.ERROR, f"worker {event.worker_id} {said}{', '.join(event.left)}", event)
    else:
        _log(logging.INFO, f"worker {event.worker_id} stopped", event)


def _fenced(event: events.WorkerFenced) -> str:
    return (
        f"worker {event.worker_id} could not report for {event.seconds:.1f} s and stopped its own "
        "jobs, before others take them"
    )


def _fired(event: events.ScheduleFired) -> str:
    jobs = "job" if len(event.job_ids) == 1 else f"{len(event.job_ids)} jobs, the last"
    return f"schedule {event.schedule}: {jobs} {event.job_ids[-1]} for {event.moment.isoformat()}"


def _declared(event: events.SchedulesDeclared) -> None:
    kinds = {"new": event.added, "changed": event.changed, "retired": event.retired}
    said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)
    if said:
        _log(logging.INFO, f"schedules of the code: {said}", event)
    if event.refused:
        names = ", ".join(event.refused)
        said = f"a user's schedules have these names of the code's, which do not run: {names}"
        _log(logging.WARNING, said, event)


_SAID: dict[type[Event], tuple[int, Callable[..., str]]] = {
    events.JobRetried: (logging.WARNING, _retried),
    events.JobRescued: (logging.WARNING, _rescued),
    events.LeaseLost: (logging.WARNING, _lease_lost),
    events.JobOverran: (logging.WARNING, _overran),
    events.JobDied: (logging.ERROR, _died),
    events.WorkerStarted: (logging.INFO, _started),
    events.ScheduleFired: (logging.INFO, _fired),
    events.BreakerClosed: (logging.WARNING, _breaker_closed),
    events.WorkerFenced: (logging.ERROR, _fenced),
}
