"""After a fork, parent and child each go on with sockets of their own.

The fork is made outside of any running event loop: within one, parent and child share the loop's
epoll descriptor, and neither asyncio nor trio survives that.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SYNC = """
import os, sys
from soniq.db.sync import Database
from soniq.settings import Settings
from soniq.steps import Query

def pid():
    return (yield from Query("SELECT pg_backend_pid()", {}, tuple))[0][0]

db = Database(Settings().with_(pool_max_size=2), url=lambda: sys.argv[1])
with db.acquire(), db.acquire():
    pass
before = db.run(pid)
with db.acquire() as held:
    own = held.fetchval("SELECT pg_backend_pid()")
    if (child := os.fork()) == 0:
        mine = [db.run(pid) for _ in range(3)]
        assert own not in mine and before not in mine
        db.close()
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert held.fetchval("SELECT pg_backend_pid()") == own
known = {db.run(pid) for _ in range(4)}
assert known & {own, before}, (known, own, before)
db.close()
print("good")
"""

ASYNC = """
import os, sys
import anyio, psycopg
from soniq.db.aio import Database
from soniq.settings import Settings
from soniq.steps import Query

def pid():
    return (yield from Query("SELECT pg_backend_pid()", {}, tuple))[0][0]

db = Database(Settings(), url=lambda: sys.argv[1])

async def use():
    return {await db.run(pid) for _ in range(3)}

async def use_and_close():
    mine = await use()
    await db.close()
    return mine

before = anyio.run(use, backend=sys.argv[2])
if (child := os.fork()) == 0:
    assert not anyio.run(use_and_close, backend=sys.argv[2]) & before
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
with psycopg.connect(sys.argv[1]) as witness:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
    assert witness.execute(sql, [list(before)]).fetchone() == (1,)  # the child left it alone
assert len(anyio.run(use_and_close, backend=sys.argv[2])) == 1
print("good")
"""

REPOSITORY = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    """Run a script with warnings as errors; answer what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_parent_and_child_both_work_in_sync_code(scratch: str) -> None:
    assert run(SYNC, scratch) == "good\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_parent_and_child_both_work_in_async_code(scratch: str, backend: str) -> None:
    assert run(ASYNC, scratch, backend) == "good\n"


def test_a_client_that_is_never_closed_ends_without_a_word(scratch: str) -> None:
    script = SYNC.split("with db.acquire(), db", maxsplit=1)[0] + "print(db.run(pid) > 0)"
    assert run(script, scratch) == "True\n"


def test_an_async_client_that_is_never_closed_ends_without_a_word(scratch: str) -> None:
    script = ASYNC.split("async def use", maxsplit=1)[0] + "print(anyio.run(db.run, pid) > 0)"
    assert run(script, scratch) == "True\n"
