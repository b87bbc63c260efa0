"""The shop in Django: the lines of its README, run as they are printed, and driven over HTTP."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.cookiejar import CookieJar
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest

from .conftest import ROOT, ask, until

if find_spec("django") is None or find_spec("gunicorn") is None:
    pytest.skip("needs Django and gunicorn", allow_module_level=True)

import django

pytestmark = pytest.mark.timeout(180)

TASKS = django.VERSION >= (6, 0)

README = (ROOT / "examples" / "django_shop" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
INSTALL, PREPARE, WORKER, SERVE, TEST = BLOCKS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example, as somebody has who read only its README."""
    copy = tmp_path / "django_shop"
    shutil.copytree(
        ROOT / "examples" / "django_shop", copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    return copy


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def environment(folder: Path, empty_database: str, port: int) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SONIQ_", "DJANGO_"))}
    here = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": f"{here}:{kept['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": empty_database,
        "PORT": str(port),
    }


def sh(lines: str, folder: Path, environment: dict[str, str]) -> str:
    """Run lines as a shell does, and see each of them end well."""
    done = subprocess.run(
        ["bash", "-euc", lines],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def running(line: str, folder: Path, environment: dict[str, str]) -> Iterator[Callable[[], str]]:
    """Run a line in a terminal of its own; at the end it is stopped by SIGTERM and ends well."""
    log = folder.parent / f"{line.split(maxsplit=1)[0]}-{len(list(folder.parent.iterdir()))}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {line}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield log.read_text
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    # uvicorn ends, when all is done, by the signal that it was sent.
    assert code in (0, -signal.SIGTERM), log.read_text()


class Browser:
    """Somebody who looks at the shop; redirects are followed, cookies and tokens are kept."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def get(self, path: str) -> str:
        with self._opener.open(f"{self._base}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def post(self, path: str, **fields: str) -> str:
        token = next(each.value for each in self._cookies if each.name == "csrftoken")
        data = urlencode({**fields, "csrfmiddlewaretoken": token or ""}).encode()
        with self._opener.open(f"{self._base}{path}", data, timeout=30) as answer:
            return str(answer.read().decode())

    def serves(self) -> bool:
        try:
            self.get("/")
        except (OSError, urllib.error.URLError):
            return False
        return True


@pytest.fixture
def prepared(folder: Path, environment: dict[str, str]) -> str:
    return sh(PREPARE, folder, environment)


def test_an_order_is_invoiced_and_mailed_while_two_processes_serve(
    prepared: str, folder: Path, environment: dict[str, str], port: int, empty_database: str
) -> None:
    """gunicorn loads the project before it forks, and each process connects for itself."""
    assert "no issues" in prepared
    browser = Browser(port)
    with ExitStack() as stack:
        log = stack.enter_context(running(SERVE, folder, environment))
        until(browser.serves)
        for _ in range(6):
            browser.post("/checkout/", item="lamp", email="ann@example.com")
        assert "to be written" in browser.get("/")
        stack.enter_context(running(WORKER, folder, environment))
        until(lambda: ask(empty_database, "SELECT count(*) FROM shop_order WHERE mailed") == 6)
        assert "2026-000001" in browser.get("/")
        assert log().count("Booting worker") == 2
        until(lambda: ask(empty_database, "SELECT count(*) FROM soniq.jobs") == 0)
        if TASKS:
            assert "lamp: 6" in browser.get("/")
    mails = [file.read_text() for file in sorted((folder / "mails").iterdir())]
    assert sum(mail.count("Subject: Invoice 2026-") for mail in mails) == 6


def test_what_fails_after_the_enqueue_leaves_neither_order_nor_job(
    prepared: str, folder: Path, environment: dict[str, str], port: int, empty_database: str
) -> None:
    browser = Browser(port)
    asgi = f"uvicorn --host 127.0.0.1 --port {port} mysite.asgi:application"
    jobs = "SELECT count(*) FROM soniq.jobs WHERE task = 'shop.jobs.write_invoice'"
    for place, (serve, path) in enumerate(((SERVE, "/checkout/"), (asgi, "/acheckout/"))):
        with running(serve, folder, environment):
            until(browser.serves)
            with pytest.raises(urllib.error.HTTPError) as caught:
                browser.post(path, item="unobtainable", email="ann@example.com")
            assert caught.value.code == 500
            caught.value.close()
            assert ask(empty_database, jobs) == place
            browser.post(path, item="lamp", email="ann@example.com")
            assert ask(empty_database, jobs) == place + 1
    assert ask(empty_database, "SELECT count(*) FROM shop_order") == 2


def test_the_admin_shows_jobs_and_replays_letters(
    prepared: str, folder: Path, environment: dict[str, str], port: int, empty_database: str
) -> None:
    browser = Browser(port)
    with running(SERVE, folder, environment):
        until(browser.serves)
        page = browser.get("/admin/login/")
        assert browser.get(re.search(r'href="(/static/[^"]+base.css)"', page)[1])
        assert "Background jobs" in browser.post(
            "/admin/login/?next=/admin/", username="ann", password="secret"
        )
        browser.get("/")
        browser.post("/checkout/", item="lamp", email="ann@example.com")
        assert "shop.jobs.write_invoice" in browser.get("/admin/soniq/job/")
        # The order is gone when its job runs, so that the job dies.
        ask(empty_database, "DELETE FROM shop_order RETURNING 1")
        ask(empty_database, "UPDATE soniq.jobs SET max_attempts = 1 RETURNING 1")
        sh("python manage.py soniq worker --run-once", folder, environment)
        letter = ask(
            empty_database,
            "SELECT id::text FROM soniq.dead_letters WHERE task = 'shop.jobs.write_invoice'",
        )
        assert "DoesNotExist" in browser.get(f"/admin/soniq/deadletter/{letter}/change/")
        page = browser.post(
            "/admin/soniq/deadletter/", action="replay", _selected_action=str(letter)
        )
        assert "1 replayed" in page


def test_its_own_tests_pass(folder: Path, environment: dict[str, str]) -> None:
    assert "Ran 2 tests" in sh(TEST, folder, environment)


def test_the_models_have_their_migrations(folder: Path, environment: dict[str, str]) -> None:
    sh("python manage.py makemigrations --check --dry-run", folder, environment)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_can_be_installed_as_printed(
    folder: Path, environment: dict[str, str], tmp_path: Path, empty_database: str
) -> None:
    """With the wheel of this clone instead of a released one, in an environment of its own."""
    sh(f"{sys.executable} -m pip wheel -q --no-deps -w {tmp_path} {ROOT}", folder, environment)
    (wheel,) = tmp_path.glob("soniq-*.whl")
    lines = INSTALL.replace("soniq[", f"soniq @ file://{wheel}[").replace("createdb shop", "")
    lines = re.sub(r'"soniq @ (\S+?)\[(\S+?)\]"', r'"soniq[\2] @ \1"', lines)
    clean = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    clean["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
    activate = ". .venv/bin/activate\n"
    sh(lines, folder, clean)
    sh(activate + PREPARE, folder, clean)
    sh(activate + TEST, folder, clean)
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM soniq.migrations").fetchone() != (0,)
