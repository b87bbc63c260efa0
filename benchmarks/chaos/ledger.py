"""The ledger: what handlers, producers and the harness note, where nothing that is hurt reaches it.

A local file, appended to by one `write` per line, so that lines of many processes never mix and
those of a killed one are there up to its last moment. Moments are of the monotonic clock, which all
processes of a machine share and which no step of the wall clock moves.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Ledger:
    """Notes of one scenario; any number of processes write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def note(self, what: str, **fields: object) -> None:
        """Write one line."""
        line = {"what": what, "at": time.monotonic(), "pid": os.getpid(), **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    @contextmanager
    def run(self, context: Any, key: str, ends: str = "end") -> Iterator[None]:
        """Note the begin and the end of one run of a handler, and how it ended.

        Args:
            context: The handler's.
            key: The job's.
            ends: What to call its end where it fails by what it returns.
        """
        about = {
            "key": key,
            "job": context.job_id,
            "attempt": context.attempt,
            "worker": context.worker_id,
        }
        self.note("begin", **about)
        try:
            yield
        except BaseException as error:
            self.note("cut" if _was_cut(error) else "fail", error=repr(error)[:200], **about)
            raise
        self.note(ends, **about)

    def fault(self, kind: str, pid: int | None = None, **fields: object) -> None:
        """Note that the harness hurts a process; None is all of them."""
        self.note("fault", kind=kind, hit=pid, **fields)

    def lines(self) -> list[dict[str, Any]]:
        """Read what was written so far."""
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]


def _was_cut(error: BaseException) -> bool:
    # By name: in a thread or a child process there is no loop to ask for its own class.
    return type(error).__name__ in {"CancelledError", "Cancelled", "JobCancelled"}


@dataclass(slots=True)
class Run:
    """One run of a handler.

    Attributes:
        how: `end`, `fail`, `cut` (told to stop), or None: it never came to its end.
    """

    key: str
    job: str
    attempt: int
    worker: str
    pid: int
    began: float
    ended: float = float("inf")
    how: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to a process, or to all.

    Attributes:
        at: When it began.
        until: When it was over: on a busy machine a process that is killed goes on for a moment.
    """

    kind: str
    hit: int | None
    at: float
    until: float


@dataclass(slots=True)
class Book:
    """A ledger as it was read.

    Attributes:
        acknowledged: The id that the producer was given, by key.
        unknown: The error that the producer was given instead, by key.
        runs: All runs by key, in the order they began.
        faults: In order.
        pids: The process of each worker.
        lost: Attempts whose worker said that somebody else has the job, as (job, attempt, worker).
    """

    acknowledged: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)
    lost: set[tuple[str, int, str]] = field(default_factory=set)
    acknowledged_at: dict[str, float] = field(default_factory=dict)


def read(lines: list[dict[str, Any]]) -> Book:
    """Put the lines together."""
    book = Book()
    open_runs: dict[tuple[str, int, str], Run] = {}
    for line in lines:
        match line["what"]:
            case "ack":
                book.acknowledged[line["key"]] = line["job"]
                book.acknowledged_at[line["key"]] = line["at"]
            case "unknown":
                book.unknown[line["key"]] = line["error"]
            case "worker":
                book.pids[line["worker"]] = line["pid"]
            case "fault":
                since = line.get("since", line["at"])
                book.faults.append(Fault(line["kind"], line["hit"], since, line["at"]))
            case "lost":
                book.lost.add((line["job"], line["attempt"], line["worker"]))
            case "begin":
                names = ("key", "job", "attempt", "worker", "pid")
                run = Run(*(line[name] for name in names), began=line["at"])
                book.runs.setdefault(run.key, []).append(run)
                open_runs[run.key, run.attempt, run.worker] = run
            case "end" | "fail" | "cut" as how:
                run = open_runs[line["key"], line["attempt"], line["worker"]]
                run.how, run.ended = how, line["at"]
    return book
