"""Several worker processes under one command: start them, replace those that die, stop them all.

The supervisor opens no connection, no thread and no event loop, so that it may fork at any time.
Each worker has a *line* to it, a socket: the worker says on it that it is ready, the supervisor
that it should stop, once for each time it was asked; and whoever dies hangs up. An order that came
by the line as well as by a signal, as when a terminal or systemd tells every process, counts once.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import SettingsError
from ..policy import restart
from ..policy.restart import Ended, GiveUp, Leave, Refill
from .wire import Wire

log = logging.getLogger("soniq.worker")

READY, STOP = b"r", b"s"
# Beyond what a stopping worker may take by itself: one that still lives by then hangs.
MARGIN_SECONDS = 20.0


@dataclass(slots=True)
class Seat:
    """What a worker process has of its supervisor.

    Attributes:
        name: Which of them it is, for its log: `worker 1/4`.
        line: Its end of the line.
    """

    name: str
    line: socket.socket

    def say_ready(self, *_: Any) -> None:
        """Tell the supervisor that this worker has signed in."""
        with suppress(OSError):  # it is dead, and the worker drains for that
            self.line.send(READY)


@dataclass(slots=True)
class Place:
    """One of the places that the supervisor keeps filled; an empty one has no line.

    Attributes:
        name: Which of them it is.
        due: When to fill it, by `time.monotonic()`; None is not at all.
    """

    name: str
    pid: int = 0
    line: socket.socket | None = None
    ready: bool = False
    since: float = 0.0
    failures: int = 0
    due: float | None = field(default_factory=time.monotonic)

    def take(self, pid: int, line: socket.socket) -> None:
        """Have a new process in this place."""
        line.setblocking(False)
        self.pid, self.line, self.ready = pid, line, False
        self.since, self.due = time.monotonic(), None

    def hear(self) -> None:
        """Take in whether the process has said that it is ready."""
        if self.line is not None:
            with suppress(OSError):
                self.ready = self.ready or self.line.recv(16).startswith(READY)

    def tell(self, word: bytes) -> None:
        """Say something to the process, if there is one."""
        if self.line is not None:
            with suppress(OSError):  # it has ended, as will be seen
                self.line.send(word)

    def clear(self, code: int) -> Ended:
        """Say how the process was that has ended, and forget it."""
        self.hear()  # it may have been ready, and dead, before anybody listened
        ended = Ended(code, self.ready, time.monotonic() - self.since, self.failures)
        if self.line is not None:
            self.line.close()
        self.line, self.ready = None, False
        return ended


class Supervisor:
    """Keeps so many worker processes until it is asked to stop.

    Args:
        number: How many.
        run_once: Whether they end by themselves when nothing is due.
        patience_seconds: How long a worker may take to stop.
    """

    def __init__(self, number: int, *, run_once: bool, patience_seconds: float) -> None:
        self._places = [Place(f"worker {n}/{number}") for n in range(1, number + 1)]
        self._run_once = run_once
        self._patience = patience_seconds + MARGIN_SECONDS
        self._orders = 0
        self._kill_at: float | None = None
        self._worst = 0
        self._announced = False

    def run(self) -> int | Seat:
        """Supervise to the end; in each worker process this returns its seat instead.

        Returns:
            The worst exit code of the workers that were not replaced.

        Raises:
            SettingsError: This system cannot fork.
        """
        if not hasattr(os, "fork"):
            raise SettingsError(
                "--processes needs a system that can fork. Start the command several times instead."
            )
        _warn_of_threads()
        with Wire() as wire:
            while any(place.line or place.due is not None for place in self._places):
                seat = self._fill(wire)
                if seat is not None:
                    return seat
                self._take(wire.wait(self._next_moment(), self._unheard()))
                self._look()
        log.info("all workers have ended")
        return self._worst

    # -- starting

    def _fill(self, wire: Wire) -> Seat | None:
        """Start whoever is due; in the new process, give its seat."""
        for place in self._places:
            if place.due is not None and place.due <= time.monotonic():
                try:
                    pid, ours, theirs = _start(wire)
                except OSError as error:  # too many processes or open files: perhaps not for long
                    place.failures += 1
                    pause = restart.pause_after(place.failures)
                    place.due = time.monotonic() + pause
                    log.error("%s cannot start (%s); again in %g s", place.name, error, pause)  # noqa: TRY400
                    continue
                if pid == 0:
                    # Only the supervisor may hold its ends: else the others never see it die.
                    for line in [ours, *self._lines()]:
                        line.close()
                    return Seat(place.name, theirs)
                theirs.close()
                place.take(pid, ours)
                log.debug("%s is process %d", place.name, pid)
        return None

    # -- hearing

    def _take(self, signals: bytes) -> None:
        for number in signals:
            if number != signal.SIGCHLD:
                log.info("%s: stopping all workers", signal.Signals(number).name)
                self._stop()
        for place in self._places:
            place.hear()
        ready = sum(place.ready for place in self._places)
        if ready == len(self._places) and not self._announced:
            self._announced = True
            pids = ", ".join(str(place.pid) for place in self._places)
            log.info("all %d workers are ready: processes %s", ready, pids)

    def _look(self) -> None:
        """Take note of who has ended; kill who should have long ago."""
        overdue = self._kill_at is not None and time.monotonic() >= self._kill_at
        for place in self._places:
            if place.line is None:
                continue
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if pid:
                self._ended(place, os.waitstatus_to_exitcode(status))
            elif overdue:
                log.error("%s (process %d) does not stop, and is killed", place.name, place.pid)
                os.kill(place.pid, signal.SIGKILL)
        if overdue:
            self._kill_at = None

    def _ended(self, place: Place, code: int) -> None:
        ended = place.clear(code)
        verdict = restart.after(
            ended,
            stopping=self._orders > 0,
            run_once=self._run_once,
            others_ready=any(other.ready for other in self._places),
        )
        match verdict:
            case Leave():
                if code and ended.ready:  # one that was not had no jobs, and may not have heard
                    self._note(code)
                    log.error("%s %s", place.name, restart.said(code))
            case GiveUp():
                self._note(code)
                log.error(
                    "%s %s before it was ready, and so would the next; what it said is above",
                    place.name,
                    restart.said(code),
                )
                self._stop()
            case Refill(pause, failures):
                if self._run_once:
                    self._note(code)
                place.failures, place.due = failures, time.monotonic() + pause
                level = logging.ERROR if code else logging.INFO
                log.log(
                    level, "%s %s; another follows in %g s", place.name, restart.said(code), pause
                )

    def _note(self, code: int) -> None:
        self._worst = max(self._worst, 1 if code < 0 else code)

    # -- stopping

    def _stop(self) -> None:
        """Give every worker one more order to stop, and fill no place again."""
        self._orders += 1
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._patience
        for place in self._places:
            place.due = None
            place.tell(STOP)

    # -- waiting

    def _lines(self) -> list[socket.socket]:
        return [place.line for place in self._places if place.line is not None]

    def _unheard(self) -> list[socket.socket]:
        return [place.line for place in self._places if place.line is not None and not place.ready]

    def _next_moment(self) -> float | None:
        moments = [place.due for place in self._places if place.due is not None]
        if self._kill_at is not None:
            moments.append(self._kill_at)
        return max(0.0, min(moments) - time.monotonic()) if moments else None


def _start(wire: Wire) -> tuple[int, socket.socket, socket.socket]:
    """Fork; give the new process's id, 0 in itself, and both ends of its line."""
    ours, theirs = socket.socketpair()
    try:
        return wire.fork(), ours, theirs
    except OSError:
        ours.close()
        theirs.close()
        raise


def _warn_of_threads() -> None:
    others = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    if others:
        log.warning(
            "importing the application started threads (%s), which the worker processes will not "
            "have; start them later, for example in a before_job hook",
            ", ".join(others),
        )
