"""Programs that are measured from outside: start them, ask what they use, end them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# An idle program must not keep a benchmark for ever.
LONGEST_SECONDS = 60.0


def usage() -> dict[str, float]:
    """Say what this process has used: seconds of CPU, most megabytes of memory; and the time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"at": time.time(), "cpu": used.ru_utime + used.ru_stime, "rss": _peak(used)}


def _peak(used: resource.struct_rusage) -> float:
    try:  # on Linux, what getrusage says is at least what the parent had when it forked
        status = Path("/proc/self/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        return int(kilobytes) * 1024 / 1e6
    except (OSError, StopIteration):
        return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def say(event: str, **more: object) -> None:
    """Tell the process that started this one."""
    print(json.dumps({"event": event, **usage(), **more}), flush=True)


class Program:
    """A program of this package that says lines of JSON.

    Args:
        module: Its module.
        *arguments: Its command line.
        env: Variables to add to the environment.

    Attributes:
        ready: What it said when it was ready, with `seconds` since its start.
    """

    def __init__(self, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._module = module
        started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        try:
            self.ready = self._hear("ready")
        except BaseException:
            self._process.kill()
            raise
        self.ready["seconds"] = self.ready["at"] - started

    def usage(self) -> dict[str, Any]:
        """Ask what it has used so far."""
        self._ask("usage")
        return self._hear("usage")

    def ended(self) -> dict[str, Any]:
        """Wait for its end; give what it said last."""
        said = self._hear("ended")
        self._process.wait(LONGEST_SECONDS)
        return said

    def stop(self) -> dict[str, Any]:
        """Ask it to end, and wait."""
        self._ask("stop")
        return self.ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def _hear(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
        raise RuntimeError(f"{self._module} ended with {self._process.wait()}, not with {event!r}")
