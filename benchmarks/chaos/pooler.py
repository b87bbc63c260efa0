"""PgBouncer in transaction mode, in front of one of our servers."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import psycopg

from .postgres import WAIT_SECONDS, Server

CONFIGURATION = """
[databases]
* = host={server} port=5432 user=postgres

[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = 15
max_client_conn = 200
server_idle_timeout = 5
logfile = {folder}/pgbouncer.log
"""


def missing() -> str | None:
    """Say why there is no pooler here; None if there is one."""
    if _program() is None:
        return "pgbouncer is not installed (apt-get install pgbouncer, brew install pgbouncer)"
    return None


def _program() -> str | None:
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


class Pooler:
    """One PgBouncer.

    Args:
        server: Where it leads to.
        folder: For its socket; whoever runs the server must be able to write there.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._file = folder / "pgbouncer.ini"
        self._file.write_text(CONFIGURATION.format(server=server.folder, folder=folder))

    @property
    def url(self) -> str:
        return self._server.url(host=str(self._folder), port="6432")

    def start(self) -> None:
        """Start, and return when it lets somebody through."""
        self._process = self._server.popen(
            str(_program()), "-q", str(self._file), stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.Error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    log = self._folder / "pgbouncer.log"
                    said = log.read_text()[-1000:] if log.exists() else "nothing"
                    raise RuntimeError(f"no pooler; it said: {said}") from None
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
