"""A listener that is watched over: it hears, it comes back, and it knows when it is deaf."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from soniq.db import listen
from soniq.db.aio import Database
from soniq.db.listen import PROBE, Listener
from soniq.errors import ConnectionLost, ReadOnlyServer
from soniq.settings import Settings
from soniq.steps import Query

from .conftest import ask, until

pytestmark = pytest.mark.anyio

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


def notify(payload: str) -> Any:
    yield from Query("SELECT pg_notify({channel}, CAST(%(p)s AS text))", {"p": payload})


class Ear:
    """A listener, and what it told."""

    def __init__(self, database: Database, poke: Any = None) -> None:
        self.heard: list[str] = []
        self.states: list[bool] = []
        self.probes: list[str] = []
        self.break_on: str | None = None
        self.database = database
        self._poke = poke
        self.listener = Listener(
            database, "soniq", self.hear, poke=self.poke, on_state=self.states.append
        )

    def hear(self, payload: str) -> None:
        if payload == self.break_on:
            raise LookupError(payload)
        self.heard.append(payload)

    async def poke(self, payload: str) -> None:
        self.probes.append(payload)
        if self._poke is not None:
            await self._poke(payload)
        else:
            await self.database.run(notify, payload)


@asynccontextmanager
async def listening(url: str, poke: Any = None, **settings: Any) -> AsyncIterator[Ear]:
    database = Database(Settings().with_(**settings), url=lambda: url)
    ear = Ear(database, poke)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ear.listener.run)
        try:
            yield ear
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await database.close()


async def test_a_message_arrives_at_once(scratch: str, witness: Any) -> None:
    async with listening(scratch) as ear:
        await until(lambda: ear.listener.healthy)
        assert ear.states == [True]
        began = time.monotonic()
        witness("NOTIFY soniq, 'hello'")
        await until(lambda: ear.heard == ["hello"])
        assert time.monotonic() - began < 1.0
        assert len(ear.probes) == 1


async def test_probes_are_told_to_nobody_whoever_sent_them(scratch: str, witness: Any) -> None:
    async with listening(scratch) as ear:
        await until(lambda: ear.listener.healthy)
        witness(f"NOTIFY soniq, '{PROBE}of another worker'")
        witness("NOTIFY soniq, 'last'")
        await until(lambda: ear.heard)
        assert ear.heard == ["last"]


async def test_a_listener_whose_server_goes_comes_back_and_says_so(
    scratch: str, witness: Any, terminate: Callable[[], int]
) -> None:
    async with listening(scratch) as ear:
        await until(lambda: ear.states == [True])
        terminate()
        await until(lambda: ear.states == [True, False, True])
        witness("NOTIFY soniq, 'again'")
        await until(lambda: ear.heard == ["again"])


async def test_a_quiet_listener_proves_itself_again(
    scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "QUIET_AFTER", 0.05)
    async with listening(scratch) as ear:
        await until(lambda: len(ear.probes) >= 4)
        assert ear.states == [True]


async def test_a_handler_that_raises_does_not_end_the_listener(
    scratch: str, witness: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(scratch) as ear:
        await until(lambda: ear.listener.healthy)
        ear.break_on = "bad"
        witness("NOTIFY soniq, 'bad'")
        witness("NOTIFY soniq, 'good'")
        await until(lambda: ear.heard == ["good"])
        assert "could not be handled" in caplog.text
        assert ear.listener.healthy


async def test_a_deaf_listener_says_so_once_and_tries_again(
    scratch: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The probes are swallowed until `gone`, as a pooler in transaction mode would."""
    monkeypatch.setattr(listen, "PROBE_TIMEOUT", 0.05)
    monkeypatch.setattr(listen, "RETRY_AFTER", 0.05)
    gone = False

    async def poke(payload: str) -> None:
        if gone:
            await database.run(notify, payload)

    database = Database(Settings(), url=lambda: scratch)
    async with listening(scratch, poke) as ear:
        await until(lambda: len(ear.probes) >= 3)
        assert ear.states == [False]
        assert not ear.listener.healthy
        gone = True
        monkeypatch.setattr(listen, "PROBE_TIMEOUT", 5.0)
        await until(lambda: ear.states == [False, True])
        await database.close()
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "SONIQ_LISTEN_URL" in warnings[0].getMessage()


async def test_a_listener_that_has_gone_deaf_makes_another_connection_at_once(
    scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover it stayed with the old primary, a minute longer than it had to."""
    monkeypatch.setattr(listen, "QUIET_AFTER", 0.2)
    monkeypatch.setattr(listen, "PROBE_TIMEOUT", 0.3)
    deaf = True

    async def poke(payload: str) -> None:
        if not (deaf and ear.states):
            await database.run(notify, payload)

    database = Database(Settings(), url=lambda: scratch)
    async with listening(scratch, poke) as ear:
        await until(lambda: ear.states == [True])
        await until(lambda: ear.states == [True, False])
        deaf = False
        await until(lambda: ear.states == [True, False, True])
        await database.close()


async def test_a_probe_that_cannot_be_sent_says_nothing_about_the_listener(
    scratch: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listen, "PROBE_TIMEOUT", 0.05)
    failing = True

    async def poke(payload: str) -> None:
        if failing:
            raise ConnectionLost("the other connection")
        monkeypatch.setattr(listen, "PROBE_TIMEOUT", 5.0)
        await database.run(notify, payload)

    database = Database(Settings(), url=lambda: scratch)
    async with listening(scratch, poke) as ear:
        await until(lambda: len(ear.probes) >= 3)
        assert ear.states == []
        failing = False
        await until(lambda: ear.states == [True])
        await database.close()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_standby_is_polled(scratch: str, caplog: pytest.LogCaptureFixture) -> None:
    async def poke(payload: str) -> None:
        raise ReadOnlyServer("cannot execute NOTIFY during recovery", sqlstate="25006")

    async with listening(scratch, poke) as ear:
        await until(lambda: ear.states == [False])
    assert "standby" in caplog.text


async def test_no_server_at_all_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://127.0.0.1:{taken.getsockname()[1]}/x"
        async with listening(url) as ear:
            await until(lambda: sum("lost" in r.getMessage() for r in caplog.records) >= 1)
            assert ear.states == [False]
    assert sum(r.levelno >= logging.WARNING for r in caplog.records) == 1


async def test_it_ends_cleanly_at_any_moment(scratch: str, witness: Any) -> None:
    for n in range(15):
        with anyio.move_on_after(n * 0.003):
            async with listening(scratch):
                await anyio.sleep_forever()
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    await until(lambda: witness(others) == [(0,)])


# -- through a real pooler


@pytest.fixture(params=["transaction", "session"])
def pooled_url(request: pytest.FixtureRequest, scratch: str) -> Iterator[str]:
    """The URL of the scratch database through a PgBouncer."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
    target = conninfo_to_dict(scratch)
    user = "postgres" if "postgres" in {u.pw_name for u in pwd.getpwall()} else "nobody"
    _needs_way(str(target.get("host")), user)
    folder = Path("/tmp") / f"soniq-pgbouncer-{os.getpid()}-{request.param}"
    folder.mkdir(mode=0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.ini").write_text(
        "[databases]\n"
        f"* = host={target.get('host')} port={target.get('port', 5432)} "
        f"user={target.get('user', 'postgres')}\n"
        "[pgbouncer]\n"
        f"pool_mode = {request.param}\nauth_type = any\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\ndefault_pool_size = 4\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    command = [PGBOUNCER, "-q", str(folder / "config.ini")]
    if os.geteuid() == 0:
        command[1:1] = ["-u", user]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    url = make_conninfo(scratch, host="127.0.0.1", port=port)
    try:
        _await_server(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def _needs_way(host: str, user: str) -> None:
    """Skip where the server runs as root in a user namespace: PgBouncer may not run as root.

    It does where nobody else may enter the environment that its programs are in.
    """
    if os.geteuid() == 0 and host.startswith("/"):
        way = subprocess.run(["ls", host], user=user, capture_output=True, cwd="/", check=False)
        if way.returncode != 0:
            pytest.skip(f"the user {user} may not enter the server's folder")


def _await_server(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("pgbouncer did not start")


async def test_a_pooler_is_noticed_and_statements_are_not_prepared(pooled_url: str) -> None:
    """With prepared statements, a third of these would fail through PgBouncer 1.18."""
    database = Database(Settings().with_(pool_max_size=8), url=lambda: pooled_url)

    async def one(n: int) -> None:
        for _ in range(20):
            assert await database.run(ask, "SELECT CAST(%(n)s AS int)", {"n": n}) == [(n,)]

    async with anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(one, n)
    async with database.acquire() as conn:
        assert conn.prepare_threshold is None
    await database.close()


async def test_behind_a_pooler_the_listener_finds_out_whether_it_is_deaf(
    pooled_url: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = "transaction" in request.node.name
    async with listening(pooled_url) as ear:
        await until(lambda: ear.states)
        assert ear.states == [not deaf]
    assert ("direct address" in caplog.text) is deaf


async def test_a_direct_address_is_used_for_listening(pooled_url: str, scratch: str) -> None:
    async with listening(pooled_url, listen_url=scratch) as ear:
        await until(lambda: ear.states == [True])
