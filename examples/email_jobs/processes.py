"""Real processes whose output is read as it comes, so that one can wait for what they say."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Failed(Exception):
    """The example cannot go on; the message says why, and what the process said last."""


class Process:
    """A running command.

    Args:
        name: What to call it in messages.
        command: The program and its arguments.
        folder: Where it runs.
        environment: Its environment, all of it.

    Attributes:
        lines: What it has said so far, errors too.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._silent = False
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def wait_for_line(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait until it says a line that the pattern is found in.

        Raises:
            Failed: It ended, or the time was over, before it said so.
        """
        end = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._silent or self._find(pattern), seconds)
            if found := self._find(pattern):
                return found
        why = "ended" if time.monotonic() < end else f"said nothing of the kind in {seconds:g} s"
        raise Failed(f"{self.name} {why} before it was ready.{self.last_words()}")

    def check(self) -> None:
        """Make sure that it still runs.

        Raises:
            Failed: It has ended.
        """
        if (code := self.exit_code) is not None:
            self._reader.join(5)
            raise Failed(f"{self.name} ended with exit code {code}.{self.last_words()}")

    def last_words(self) -> str:
        """Give its last lines, indented, to put below a message."""
        return "".join(f"\n    {line}" for line in self.lines[-15:]) or " It said nothing."

    def stop(self, seconds: float = 45.0) -> int:
        """Ask it to end with SIGTERM, and wait for that; answer its exit code.

        Raises:
            Failed: It had not ended in time, and was killed.
        """
        self.terminate()
        return self.wait(seconds)

    def terminate(self) -> None:
        """Ask it to end with SIGTERM, and do not wait."""
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Wait for its end; answer its exit code.

        Raises:
            Failed: It had not ended in time, and was killed.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end in {seconds:g} s.{self.last_words()}") from None
        self._reader.join(5)
        return code

    def close(self) -> None:
        """End it, if it still runs: with SIGTERM, and after 10 s with SIGKILL."""
        if self.exit_code is None:
            with contextlib.suppress(Failed):
                self.stop(10)

    def kill(self) -> None:
        """End it at once, with SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._reader.join(5)

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as said:
            for line in said:
                with self._changed:
                    self.lines.append(line.rstrip())
                    self._changed.notify_all()
        with self._changed:
            self._silent = True
            self._changed.notify_all()
