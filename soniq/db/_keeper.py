"""The process that stands behind the embedded server: it starts it, watches it and stops it.

Run by its path with `python -I -S`, so only the standard library is in reach, and little of it: the
keeper lives as long as the server does. `embedded.py` uses the upper half of this file.

Four files in the server's folder carry the truth, as `flock` locks, because the kernel lets go of a
lock however its holder dies:

- `users.lock`: shared by every process that uses the server; the keeper waits to have it alone.
- `start.lock`: held while somebody makes or starts the server.
- `keeper.lock`: held by the keeper, with its pid in it.
- `server.lock`: inherited by `postgres` and its children, so it is free only when all are gone.
  A pid in `postmaster.pid` proves nothing: after a crash it may be anybody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 5432
_POLL_SECONDS = 0.01
_RESTARTS = 20
_FAST_STOP_SECONDS = 30.0
_KEPT = ("PATH", "HOME", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


class Plan(NamedTuple):
    """How a server is run: where everything lies, and as whom.

    Attributes:
        home: The folder of the locks and the log.
        data: The cluster's folder.
        socket: The folder of the socket.
        binaries: The folder of `postgres`.
        prefix: What goes before a command of the server, as `unshare --user ...`.
        uid: The user to become, or None to stay.
        gid: That user's group.
    """

    home: str
    data: str
    socket: str
    binaries: str
    prefix: list[str]
    uid: int | None
    gid: int | None

    def popen(self, command: list[str], *, keep: int, quiet: bool) -> subprocess.Popen[bytes]:
        """Start a program of the server as the right user, letting it inherit one descriptor."""
        return subprocess.Popen(
            [*self.prefix, *command],
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            pass_fds=(keep,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment(),
        )


def write(plan: Plan) -> str:
    """Write a plan as the keeper's argument."""
    return json.dumps(plan)


def environment() -> dict[str, str]:
    """Choose what a server may see of the environment: no PG*, no broken locale, no secrets."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C"}


# -- locks


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take a lock if that needs no waiting."""
    import fcntl  # late: there is none on Windows, where importing this file must still work

    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Let go of a lock, also in the name of children that were forked meanwhile."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def wait_lock(descriptor: int, seconds: float, *, shared: bool = False) -> None:
    """Take a lock, polling: a blocked `flock` could not be given up.

    Raises:
        TimeoutError: Somebody else held it all the time.
    """
    end = time.monotonic() + seconds
    while not try_lock(descriptor, shared=shared):
        if time.monotonic() > end:
            raise TimeoutError(f"no lock within {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def locked(path: str, seconds: float) -> Iterator[int]:
    """Hold a lock file alone; the value is its descriptor.

    Raises:
        TimeoutError: Somebody else held it all the time.
    """
    with _opened(path) as descriptor:
        wait_lock(descriptor, seconds)
        try:
            yield descriptor
        finally:
            unlock(descriptor)


def is_held(path: str) -> bool:
    """Tell whether a process holds this lock file alone."""
    with _opened(path) as descriptor:
        if try_lock(descriptor, shared=True):
            unlock(descriptor)
            return False
        return True


# -- postmaster.pid


def pid_file(data: str) -> list[str]:
    """Read `postmaster.pid`, or nothing; line 1 is the pid, 5 the socket's folder, 8 the state."""
    try:
        with open(f"{data}/postmaster.pid", encoding="utf-8", errors="surrogateescape") as file:
            return [line.strip() for line in file.read().split("\n")]
    except OSError:
        return []


def is_serving(data: str) -> bool:
    """Tell whether the server says, or said when it died, that it was ready."""
    lines = pid_file(data)
    return len(lines) > 7 and lines[7] == "ready"


def postmaster(data: str) -> int | None:
    """Find the server's main process, if the pid in its file really is one of this folder."""
    lines = pid_file(data)
    pid = int(lines[0]) if lines and lines[0].isdigit() else 0
    return pid if pid and _works_in(pid, data) else None


def stop_fast(pid: int) -> None:
    """Ask a server to end its sessions and stop."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)


def _works_in(pid: int, data: str) -> bool:
    # A postmaster's working folder is its data folder; macOS has no /proc, but keeps its arguments.
    if os.path.isdir("/proc/self"):
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", data)
        except OSError:
            return False
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return os.fsencode(data) in subprocess.run(command, check=False, capture_output=True).stdout


# -- the keeper


class Keeper:
    """Runs one server until its last user is gone, starting it again if it crashes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._child: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._leaving = False

    def run(self) -> None:
        """Start or adopt the server and stay until it is down for good."""
        signal.signal(signal.SIGTERM, lambda *_: self._start_thread(self.stop))
        lock = os.open(f"{self._plan.home}/server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        adopting = not try_lock(lock)
        self._start_thread(self._stop_after_the_last_user)
        for _ in range(_RESTARTS):
            if not adopting and not self._launch(lock):
                break
            adopting = False
            lock = self._wait_for_the_end()
            if not is_serving(self._plan.data):  # the file is left, saying so, only by a crash
                break
        with contextlib.suppress(OSError):
            os.rmdir(self._plan.socket)

    @staticmethod
    def _start_thread(target: Callable[[], None]) -> None:
        threading.Thread(target=target, daemon=True).start()

    def _launch(self, lock: int) -> bool:
        with self._guard:
            if self._leaving:
                return False
            self._drop_stale_pids()
            command = [f"{self._plan.binaries}/postgres", *_options(self._plan)]
            self._child = self._plan.popen(command, keep=lock, quiet=False)
        os.close(lock)  # now only the server holds it
        return True

    def _drop_stale_pids(self) -> None:
        # PostgreSQL refuses to start while a pid in these files is alive, whoever that is by now.
        # Holding server.lock we know better; but a server started by hand does not have that lock.
        if postmaster(self._plan.data):
            return
        socket = f"{self._plan.socket}/.s.PGSQL.{PORT}"
        for path in (f"{self._plan.data}/postmaster.pid", socket, f"{socket}.lock"):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _wait_for_the_end(self) -> int:
        lock = os.open(f"{self._plan.home}/server.lock", os.O_RDWR)
        _block(lock)
        if self._child:
            self._child.wait()
        return lock

    def _stop_after_the_last_user(self) -> None:
        lock = os.open(f"{self._plan.home}/users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        _block(lock)  # kept until this process ends: a newcomer waits until the server is down
        self.stop()

    def stop(self) -> None:
        """Stop the server: fast, and after half a minute at once. Nothing starts again."""
        with self._guard:
            self._leaving = True
        self._send_until_sent(signal.SIGINT)
        time.sleep(_FAST_STOP_SECONDS)
        self._send_until_sent(signal.SIGQUIT)

    def _send_until_sent(self, number: signal.Signals) -> None:
        # An adopted server that is just starting has no file yet. run() ends us when it is gone.
        while not self._send(number):
            time.sleep(_POLL_SECONDS)

    def _send(self, number: signal.Signals) -> bool:
        if self._child:
            self._child.send_signal(number)
            return True
        pid = postmaster(self._plan.data)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(pid)


def _options(plan: Plan) -> list[str]:
    settings = {
        "unix_socket_directories": '"' + plan.socket.replace('"', '""') + '"',
        "listen_addresses": "",
        "port": str(PORT),
        "max_connections": "200",
        "jit": "off",  # it costs more than it gains on the short statements of a queue
        "log_min_error_statement": "panic",  # a failing statement may carry a payload
    }
    library = f"{plan.binaries}/../lib/pg_stat_statements"
    if os.path.exists(f"{library}.so") or os.path.exists(f"{library}.dylib"):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    return ["-D", plan.data, *(f"--{name}={value}" for name, value in settings.items())]


def _block(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX)


def main(plan: Plan) -> None:
    """Become the keeper in the background, unless there is one; return or exit at once."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    lock = os.open(f"{plan.home}/keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        wait_lock(lock, seconds=1.0)  # somebody who only looks may hold it for a moment
    except TimeoutError:
        return
    # The starter waits for this process, so it sees the lock held, and no zombie is left to it.
    if os.fork() == 0:
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())  # for people; the lock is what counts
        Keeper(plan).run()
        os._exit(0)  # threads may still wait for locks


if __name__ == "__main__":
    main(Plan(*json.loads(sys.argv[1])))
