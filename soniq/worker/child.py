"""A child process of a worker: runs jobs with `executor="process"`, one after another.

The handler and the hooks around it are called here. It ends when its worker does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any, NamedTuple

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..db.aio import Database
from ..errors import UnknownTask
from ..job.outcome import Signal
from ..job.record import Claimed
from ..job.registry import Registry
from ..job.task import Task
from . import processes
from .attempt import Attempt, kept
from .calls import Calls
from .parcels import BEGUN, Answer, Setup, pack, receive, send
from .transaction import Lender

_born = os.getpid()


def main() -> None:
    """Run until the worker closes its end of the pipe."""
    orders_pipe, answers_pipe = _take_pipes()
    setup: Setup = receive(orders_pipe)
    orders = _Orders(orders_pipe)
    threading.Thread(target=orders.listen, name="soniq-orders", daemon=True).start()
    with ExitStack() as closing:
        try:
            bench = Workplace(setup, closing)
        except BaseException as error:  # noqa: BLE001 - the worker says it
            send(answers_pipe, Answer(error=pack(error)))
            return
        send(answers_pipe, BEGUN)
        while (job := orders.next()) is not None:
            send(answers_pipe, BEGUN)
            answer = bench.run(job)
            orders.rest()  # first: with the answer the worker may close its end
            send(answers_pipe, answer)


class _Orders:
    """Jobs as they come; the end of the worker is the end of whatever is running."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._jobs: SimpleQueue[Claimed | None] = SimpleQueue()
        self._idle = False

    def next(self) -> Claimed | None:
        """Wait for a job; None when there will be none."""
        self._idle = True
        job = self._jobs.get()
        self._idle = False
        return job

    def rest(self) -> None:
        """Say that no job runs, so that the end of the worker needs no haste."""
        self._idle = True

    def listen(self) -> None:
        """Take in what comes, in a thread of its own."""
        try:
            while True:
                self._jobs.put(receive(self._pipe))
        except (EOFError, OSError):
            if not self._idle:
                _die()
            self._jobs.put(None)
        except BaseException:  # noqa: BLE001 - no memory for a job: the worker takes it elsewhere
            _die()


class Place(NamedTuple):
    """Where a task lives: what is called around its handler, and connections for it."""

    task: Task[..., Any]
    calls: Calls
    lender: Lender


class Workplace:
    """The application as this process has it.

    Args:
        setup: What the worker said.
        closing: What is to be closed at the end.
    """

    def __init__(self, setup: Setup, closing: ExitStack) -> None:
        self._setup = setup
        self._closing = closing
        self._portal: BlockingPortal | None = None
        self._places: dict[str, Place] = {}
        self._lenders: dict[int, Lender] = {}
        sys.path[:] = setup.path
        _name(setup)
        self._clients = _clients(setup)
        if any(_needs_loop(client) for client in self._clients):
            self._start_loop()  # not in the time of the first job that needs it
        _limit_memory(setup.settings.process_memory_limit)

    def run(self, job: Claimed) -> Answer:
        """Run one attempt."""
        attempt = None
        try:
            place = self._place(job.task)
            attempt = Attempt(job, place.task, place.lender, None)
            attempt.threaded = not place.task.is_async
            text = self._result(attempt, place.calls)
            return Answer(text, written=attempt.written)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises
            worn = isinstance(error, MemoryError)
            return Answer(
                error=pack(error), written=attempt is not None and attempt.written, worn=worn
            )

    def _place(self, name: str) -> Place:
        if name not in self._places:
            for client in self._clients:
                if (task := client.registry.find(name)) is not None:
                    self._places[name] = Place(task, Calls(client.hooks), self._lender(client))
                    break
            else:
                raise UnknownTask(
                    f"A new process that imports {', '.join(self._setup.modules)} knows no task "
                    f"named {name!r}, and executor='process' needs that. Declare it when its "
                    "module is imported, on a client that the module has by a name."
                )
        return self._places[name]

    def _lender(self, client: Any) -> Lender:
        if id(client._app) not in self._lenders:
            database = Database(client.settings, url=client._app.home.url)
            lender = Lender(self._setup.worker_id, database)
            self._closing.callback(lender.close)
            self._lenders[id(client._app)] = lender
        return self._lenders[id(client._app)]

    def _result(self, attempt: Attempt, calls: Calls) -> str | None:
        try:
            result = self._call(attempt, calls)
            limit = self._setup.settings.max_payload_bytes
            return None if attempt.written else kept(attempt.job.task, result, limit)
        except BaseException as error:
            if not isinstance(error, Signal):
                calls.failed_in_thread(attempt, error)
                if not (calls.plain or (attempt.threaded and calls.loopless)):
                    self._on_loop(calls.failed, attempt, error)
            raise

    def _call(self, attempt: Attempt, calls: Calls) -> Any:
        args, kwargs = attempt.arguments()
        if not attempt.threaded:
            return self._on_loop(calls.on_loop, attempt, args, kwargs)
        run = partial(_unforked, calls.in_thread, attempt, args, kwargs)
        if calls.loopless:
            return run()
        return self._on_loop(calls.around_thread, attempt, partial(_in_thread, run))

    def _on_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call in the loop of this process, which stays for connections that are bound to it."""
        result, error = self._start_loop().call(_caught, function, *args)
        if error is not None:
            raise error
        return result

    def _start_loop(self) -> BlockingPortal:
        if self._portal is None:
            portal = start_blocking_portal(self._setup.backend)
            self._portal = self._closing.enter_context(portal)
        return self._portal


def _needs_loop(client: Any) -> bool:
    loopless = Calls(client.hooks).loopless
    return any(task.apart and (task.is_async or not loopless) for task in client.registry)


async def _caught(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    # What a handler raises must not end the loop, as SystemExit would.
    result = raised = None
    try:
        result = await function(*args)
    except BaseException as error:  # noqa: BLE001 - the same
        raised = error
    _end_if_forked(raised)
    return result, raised


def _unforked(function: Callable[..., Any], *args: Any) -> Any:
    """Call a handler; come back only in the process that called it."""
    try:
        result = function(*args)
    except BaseException as error:
        _end_if_forked(error)
        raise
    _end_if_forked(None)
    return result


def _end_if_forked(error: BaseException | None) -> None:
    """End a process that a handler forked and that came to the handler's end as well.

    It would answer for the job a second time, and take the answer of the next.
    """
    if os.getpid() == _born:
        return
    code: Any = 0
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code if isinstance(error.code, int) else 1
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _in_thread(run: Callable[[], Any]) -> Any:
    # Not on the loop: the handler may run one of its own.
    return await anyio.to_thread.run_sync(run)


# -- becoming a child


def _take_pipes() -> tuple[int, int]:
    """Keep both pipes from the handlers, whose `print` goes to the worker's stderr."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ours to decide is the worker. A function, since what is ignored stays so in subprocesses.
        signal.signal(number, _nothing)
    orders, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    if hasattr(os, "register_at_fork"):
        # What a handler forks may outlive this process, and the worker would not see its end.
        _close_copies(orders, answers)
        os.register_at_fork(after_in_child=partial(_forget, [orders, answers]))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return orders, answers


def _close_copies(*pipes: int) -> None:
    """Close what uvloop leaves open in its subprocesses."""
    for number in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # the listing's own is closed by now
            same = any(os.path.sameopenfile(number, pipe) for pipe in pipes)
            if same and number not in pipes:
                os.close(number)


def _forget(pipes: list[int]) -> None:
    while pipes:  # once: what is forked from there may have other files by these numbers
        with suppress(OSError):  # the handler has closed it
            os.close(pipes.pop())


def _nothing(number: int, frame: object) -> None:
    """Do nothing."""


def _name(setup: Setup) -> None:
    from ..observability import logs

    if setup.logs:
        logs.configure(setup.settings.log_level, setup.settings.log_format)
    before = "" if setup.name == "MainProcess" else f"{setup.name}, "
    logs.name_process(f"{before}process {os.getpid()}")


def _clients(setup: Setup) -> list[Any]:
    """Import what declares tasks and hooks; list the clients in there, each application once."""
    processes.in_child = True
    found: dict[int, Any] = {}
    for name in setup.modules:
        for value in list(vars(import_module(name)).values()):
            client: Any = getattr(value, "_client", None) if isinstance(value, Task) else value
            # By its class: a module may hold what raises whatever it is asked (flask.current_app).
            known = hasattr(type(client), "registry")
            if known and isinstance(client.registry, Registry):
                found.setdefault(id(client.registry), client)
    url = setup.settings.database_url
    for client in found.values():
        if url is not None and client.settings.database_url != url:
            client._app.move_to(url)
    return list(found.values())


def _limit_memory(mebibytes: int | None) -> None:
    if mebibytes is not None:
        import resource

        # What it writes to, not what it maps: libraries reserve far more than they use.
        most = mebibytes << 20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _die() -> None:
    """End at once, with all this process has started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    logging.shutdown()
    os._exit(1)
