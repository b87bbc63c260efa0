"""Tasks that run in processes of their own; a module, because those processes import it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import anyio

from soniq import Cancel, Discard, Retry, Snooze, Soniq, SoniqSync
from soniq.job import JobContext

app = Soniq("postgresql://nowhere", max_retries=0)
sync_app = SoniqSync("postgresql://nowhere", max_retries=0)


@app.job(executor="process")
def add(a: int, b: int, ctx: JobContext) -> dict[str, Any]:
    return {"sum": a + b, "pid": os.getpid(), "attempt": ctx.attempt, "worker": ctx.worker_id}


@app.job(executor="process")
async def add_on_loop(a: int, b: int, ctx: JobContext) -> dict[str, Any]:
    await anyio.sleep(0.001)
    return {"sum": a + b, "pid": os.getpid(), "attempt": ctx.attempt, "worker": ctx.worker_id}


@sync_app.job(executor="process")
def add_sync(a: int, b: int) -> int:
    return a + b


@app.job
async def beside() -> int:
    return os.getpid()


@app.job(executor="process")
def nap(seconds: float, ctx: JobContext) -> int:
    time.sleep(seconds)
    return ctx.attempt


@app.job(executor="process")
def nap_noted(seconds: float, note: str) -> None:
    Path(note).write_text(f"{os.getpid()}")
    time.sleep(seconds)


@app.job(executor="process")
def spin(note: str) -> None:
    """Compute for ever, beside a subprocess; both ids are noted."""
    helper = subprocess.Popen(["sleep", "600"])
    Path(note).write_text(f"{os.getpid()} {helper.pid}")
    while True:
        pass


@app.job(executor="process")
async def block(note: str) -> None:
    """Block the loop for ever."""
    Path(note).write_text(f"{os.getpid()}")
    time.sleep(600)


class OddError(Exception):
    def __init__(self, code: int, *, more: str) -> None:
        super().__init__(f"{more} {code}")
        self.code = code


class MutedError(Exception):
    """Cannot travel at all."""

    def __reduce__(self) -> Any:
        raise TypeError("not me")

    def __new__(cls, *args: Any) -> Self:
        if sys._getframe(1).f_code.co_name == "_loaded":
            raise TypeError("not me")
        return super().__new__(cls, *args)


@app.job(executor="process", max_retries=3, retry_delay=0, discard_on=OddError)
def fail(kind: str) -> None:
    raise {
        "ValueError": ValueError("no\0 way"),
        "OddError": OddError(7, more="seven is"),
        "MutedError": MutedError("said nothing"),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt("x"),
        "GeneratorExit": GeneratorExit(),
        "StopIteration": StopIteration(4),
        "CancelledError": asyncio.CancelledError("mine"),
    }[kind]


@app.job(executor="process", max_retries=3, retry_delay=0)
async def fail_on_loop(kind: str) -> None:
    fail.function(kind)


@app.job(executor="process", max_retries=3)
def signal_by(kind: str, ctx: JobContext) -> object:
    if kind == "snooze" and ctx.created_at == ctx.scheduled_at:
        raise Snooze(0.001)
    if kind == "retry" and ctx.attempt == 1:
        return Retry(after=0, reason="again")
    if kind == "cancel":
        raise Cancel("not needed")
    if kind == "discard":
        return Discard("of no use")
    return kind


@app.job(executor="process")
def die(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)


def _fork(leave: str) -> int:
    pid = os.fork()
    if pid == 0 and leave == "exit":
        sys.exit(5)
    if pid == 0 and leave == "error":
        raise ValueError("of the fork")
    if pid == 0 and leave == "sleep":
        time.sleep(600)
    return pid


@app.job(executor="process")
def fork(leave: str) -> list[int]:
    pid = _fork(leave)
    return [os.getpid(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else -1]


@app.job(executor="process")
async def fork_on_loop(leave: str) -> list[int]:
    return fork.function(leave)


@app.job(executor="process", timeout=None)
def die_beside_a_fork(note: str) -> None:
    Path(note).write_text(f"{_fork('sleep')}")
    os._exit(7)


@app.job(executor="process")
def kill_by(number: int) -> None:
    os.kill(os.getpid(), number)


@app.job(executor="process")
def hoard(mebibytes: int) -> int:
    return len(bytearray(mebibytes << 20))


@app.job(executor="process")
def echo(text: str) -> str:
    print("printed", text[:10], flush=True)
    assert sys.stdin.read() == ""
    return text


@app.job(executor="process")
def unwritable() -> object:
    return object()


@app.job(executor="process")
def own_loop() -> str:
    async def inside() -> str:
        return "inside"

    return asyncio.run(inside())


@app.job(executor="process")
def write(ctx: JobContext, fails: bool) -> None:
    with ctx.transaction() as connection:
        connection.execute("INSERT INTO notebook VALUES (1)")
    if fails:
        raise ValueError("after the fact")


@app.job(executor="process")
async def write_on_loop(ctx: JobContext, fails: bool) -> None:
    async with ctx.transaction() as connection:
        await connection.execute("INSERT INTO notebook VALUES (1)")
    if fails:
        raise ValueError("after the fact")


def _lost() -> None: ...


# Found by nobody who imports this: the process that declares it is the tests'.
def declare_late() -> None:
    if app.registry.find("lost") is None:
        app.job("lost", executor="process")(_lost)
