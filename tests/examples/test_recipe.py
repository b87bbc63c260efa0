"""The recipe of the README, word for word, at the very address it names."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from soniq.db.embedded import EmbeddedServer

from .conftest import EXAMPLE, ROOT, ask, connected, run, until

pytestmark = pytest.mark.timeout(180)

README = (ROOT / "README.md").read_text()
RUN_HERE, ANYWHERE = r"^<!-- runs: no, [^\n]* by tests/examples -->\n", "^"


def blocks(mark: str, language: str) -> list[str]:
    """The README's blocks of a language, in its order, that have such a line before them."""
    return re.findall(rf"{mark}```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


DECLARE, ENQUEUE, IN_A_TRANSACTION, SYNC = blocks(RUN_HERE, "python")
(COMMANDS,) = blocks(RUN_HERE, "bash")
SETUP, WORKER = COMMANDS.splitlines()
USERS = "CREATE TABLE users (id int GENERATED ALWAYS AS IDENTITY, name text)"
ADDRESS = "postgresql://localhost/myapp"

ROUTE = """
import ast, asyncio, sys, types
import jobs
names = {**vars(jobs), "user": types.SimpleNamespace(id=7), "name": "Ada"}
code = compile(sys.argv[1], "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
async def route():
    if (waiting := eval(code, names)) is not None:  # it has an await at its top level
        await waiting
asyncio.run(route())
"""


@contextmanager
def reachable_at_localhost(server: str) -> Iterator[int]:
    """Pass on what comes to a free port of localhost to an embedded server's socket."""
    given = conninfo_to_dict(server)
    socket = f"{given['host']}/.s.PGSQL.{given['port']}"

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)

    async def serve() -> None:
        stop.append(asyncio.Event())
        loops.append(asyncio.get_running_loop())
        listening = await asyncio.start_server(connect, "127.0.0.1", 0)
        ports.append(listening.sockets[0].getsockname()[1])
        up.set()
        await stop[0].wait()
        listening.close()

    stop: list[asyncio.Event] = []
    loops: list[asyncio.AbstractEventLoop] = []
    ports: list[int] = []
    up = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert up.wait(10)
        yield ports[0]
    finally:
        loops[0].call_soon_threadsafe(stop[0].set)
        thread.join(10)


@pytest.fixture
def myapp(private_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another address of the database that the recipe knows as its own."""
    with EmbeddedServer(private_folder) as server:
        with reachable_at_localhost(server.url()) as port:
            monkeypatch.setenv("PGPORT", str(port))
            monkeypatch.setenv("PGUSER", "postgres")
            yield server.url("myapp")


def set_up(folder: Path, jobs: str) -> None:
    """Write the declarations to jobs.py, and make the tables as the README says."""
    (folder / "jobs.py").write_text(jobs)
    run("-m", *SETUP.split(), folder=folder)


def work(folder: Path, url: str, *, jobs: int) -> None:
    """Run the README's worker command until so many jobs are done."""
    with subprocess.Popen(
        [sys.executable, "-m", *WORKER.split()],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:
            until(lambda: ask(url, "SELECT count(*) FROM soniq.history") == jobs)
        finally:
            worker.terminate()
    assert worker.returncode == 0
    assert ask(url, "SELECT count(*) FROM soniq.history WHERE state = 'done'") == jobs
    assert ask(url, "SELECT count(*) FROM soniq.jobs") == 0


def test_the_recipe_runs_word_for_word(myapp: str, tmp_path: Path) -> None:
    assert ADDRESS in DECLARE
    set_up(tmp_path, DECLARE)
    with connected(myapp) as connection:
        connection.execute(USERS)
    for block in (ENQUEUE, IN_A_TRANSACTION):
        run("-c", ROUTE, block, folder=tmp_path)
    assert ask(myapp, "SELECT array_agg(args->>'user_id' ORDER BY id) FROM soniq.jobs") == [
        "7",
        "1",
    ]
    assert ask(myapp, "SELECT name FROM users") == "Ada"
    work(tmp_path, myapp, jobs=2)


def test_the_recipe_in_sync_code_runs_word_for_word(myapp: str, tmp_path: Path) -> None:
    assert ADDRESS in SYNC
    declare, begin, rest = SYNC.partition("eq.ensure_initialized()")
    set_up(tmp_path, declare)
    with connected(myapp) as connection:
        connection.execute(USERS)
    run("-c", ROUTE, begin + rest, folder=tmp_path)
    assert ask(myapp, "SELECT array_agg(args->>'user_id') FROM soniq.jobs") == ["1"]
    work(tmp_path, myapp, jobs=1)


def test_the_readme_gives_the_runner_and_the_tests_as_one_line_each() -> None:
    first, second = blocks(ANYWHERE, "bash")[:2]
    assert first.strip().endswith("&& .venv/bin/python examples/email_jobs/run.py")
    assert second == (
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'"
        " && .venv/bin/python -m pytest -n 2\n"
    )


@pytest.mark.parametrize("block", [DECLARE, ENQUEUE, IN_A_TRANSACTION])
def test_the_application_of_the_example_is_the_recipe(block: str) -> None:
    """Every line of it, but for the address, the empty bodies, and where a result is kept."""
    app = {line.strip() for line in (EXAMPLE / "app.py").read_text().splitlines()}
    app |= {line.partition(" = ")[2] for line in app} | {line.partition("  #")[0] for line in app}
    for line in block.splitlines():
        wanted = line.strip().removesuffix(" ...")
        if wanted and ADDRESS not in wanted:
            assert wanted in app
