"""Servers to hurt: PostgreSQL of the embedded wheel, in folders that are thrown away."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from soniq.db._account import Account, choose_account
from soniq.db._keeper import environment
from soniq.db.cluster import binaries

DATABASE = "chaos"
WAIT_SECONDS = 60.0
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "jit": "off",
    # Only a power cut needs it, and nobody cuts that: what a crashed server wrote is the kernel's.
    "fsync": "off",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}
TABLES = """
    CREATE TABLE orders (key text PRIMARY KEY);
    CREATE TABLE effects (key text NOT NULL);
    CREATE INDEX ON effects (key)"""


class Server:
    """One data folder, and the server that runs on it while it is started.

    Attributes:
        folder: Its data, and its socket beside it.
    """

    def __init__(self, folder: Path, account: Account, programs: Path) -> None:
        self.folder = folder
        self._account = account
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = DATABASE, **more: str) -> str:
        """Address a database by the server's socket."""
        given = {"host": str(self.folder), "user": "postgres", "dbname": database} | more
        return psycopg.conninfo.make_conninfo("", **given)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        with self.popen(program, *arguments, stdout=subprocess.PIPE) as process:
            said = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            raise RuntimeError(f"{program} failed: {said[-1000:]}")

    def start(self, **settings: str) -> None:
        """Start, and return when it answers."""
        chosen = {**SETTINGS, "unix_socket_directories": str(self.folder), **settings}
        options = [f"--{name}={value}" for name, value in chosen.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = self.popen("postgres", "-D", str(self.data), *options, stdout=log)
        self.wait_until_up()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.Error:
                if time.monotonic() > deadline or self._ended():
                    raise RuntimeError(f"no server: {self._log()}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT is fast, SIGQUIT immediate, without a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(WAIT_SECONDS)
        self._process = None

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the superuser."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def configure(self, **settings: str) -> None:
        """Change settings of the running server; an empty value means none."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def popen(self, program: str, *arguments: str, stdout: Any) -> subprocess.Popen[bytes]:
        """Start a program as the server's user: PostgreSQL's by name, any other by path."""
        return subprocess.Popen(
            [*self._account.prefix, str(self._programs / program), *arguments],
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=None if self._account.uid is None else [],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment(),
        )

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-1000:]


class Site:
    """Where servers are made, as copies of one that was set up once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._account, self._programs = choose_account(str(folder), binaries())
        self._made = 0
        self._servers: list[Server] = []
        self._template = self._new()
        self._template.run(
            "initdb", "-D", str(self._template.data), "-U", "postgres", "--auth=trust",
            "--no-sync", "--encoding=UTF8", "--locale=C",
        )  # fmt: skip
        self._template.start()
        set_up(self._template)
        self._template.stop()

    def server(self) -> Server:
        """Make a server that holds an empty database with Soniq's schema; not yet started."""
        server = self._new()
        shutil.copytree(self._template.data, server.data, symlinks=True)
        self._account.own(str(server.data))
        return server

    def standby(self, primary: Server, place: Server | None = None) -> Server:
        """Copy a running server as its streaming standby; not yet started.

        Args:
            primary: What is copied.
            place: A server that is down: the standby gets its folder, and so its address.
        """
        server = place or self._new()
        shutil.rmtree(server.data, ignore_errors=True)
        server.run(
            "pg_basebackup", "-D", str(server.data), "-d", primary.url("postgres"),
            "-X", "stream", "-c", "fast", "-R", "--no-sync",
        )  # fmt: skip
        return server

    def open_folder(self, name: str) -> Path:
        """Make a folder in which the servers' user may write."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        self.own(folder)
        return folder

    def own(self, folder: Path) -> None:
        """Give a folder to the servers' user."""
        self._account.own(str(folder))

    def close(self) -> None:
        """Stop what still runs."""
        for server in self._servers:
            server.stop(signal.SIGQUIT)

    def _new(self) -> Server:
        folder = self.folder / f"pg{self._made}"
        self._made += 1
        folder.mkdir(0o700)
        self._account.own(str(folder))
        server = Server(folder, self._account, self._programs)
        self._servers.append(server)
        return server


def set_up(server: Server, database: str = DATABASE) -> None:
    """Make a database with Soniq's tables and those of the handlers."""
    from soniq import SoniqSync

    server.execute(f"CREATE DATABASE {database}")
    with SoniqSync(database_url=server.url(database)) as app:
        app.setup()
    server.execute(TABLES, database)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Make a site in a temporary folder; stop its servers and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="soniq-chaos-"))
    folder.chmod(0o755)  # root's servers run as somebody else, who must be able to pass through
    made: Site | None = None
    try:
        made = Site(folder)
        yield made
    finally:
        if made is not None:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)
