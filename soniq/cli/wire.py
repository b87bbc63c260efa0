"""Signals as something that a process without an event loop can wait for, beside sockets."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterable
from typing import Any, Self


class Wire:
    """Signals as bytes that can be waited for; the old handlers are back at its end."""

    def __init__(self) -> None:
        self._numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        self._old: dict[int, Any] = {}
        self._reader, self._writer = socket.socketpair()

    def __enter__(self) -> Self:
        for end in (self._reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            self._old[number] = signal.signal(number, _written_to_the_wire)
        return self

    def __exit__(self, *_: object) -> None:
        while self._old:
            signal.signal(*self._old.popitem())
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def fork(self) -> int:
        """Fork; the new process has the old handlers."""
        sys.stdout.flush()
        sys.stderr.flush()
        # Held back, or the new process would put a signal of its own on the supervisor's wire.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        try:
            pid = os.fork()
            if pid == 0:
                self.__exit__()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)
        return pid

    def wait(self, seconds: float | None, lines: Iterable[socket.socket]) -> bytes:
        """Wait for a signal, a word on a line, or the time; answer the signals' numbers."""
        with selectors.DefaultSelector() as selector:
            for each in (self._reader, *lines):
                selector.register(each, selectors.EVENT_READ)
            selector.select(seconds)
        try:
            return self._reader.recv(4096)
        except BlockingIOError:
            return b""


def _written_to_the_wire(number: int, frame: object) -> None:
    """Do nothing: `set_wakeup_fd` has put the number on the wire."""
