"""The extension, on real apps: contexts, two apps in one process, sessions, `flask soniq`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytest.importorskip("flask")

from flask import Flask, current_app, g
from flask_sqlalchemy import SQLAlchemy

from soniq import SoniqSync
from soniq.errors import InvalidOption, SettingsError, UnknownOption, UsageError
from soniq.integrations.flask import AppSoniq, FlaskSoniq, configured

ROOT = Path(__file__).parents[2]
TALK = """
    from flask import Flask, current_app
    from soniq.integrations.flask import FlaskSoniq

    jobs = FlaskSoniq()

    @jobs.job
    def in_thread() -> str:
        return current_app.name

    @jobs.job
    async def on_loop() -> str:
        return current_app.name

    @jobs.job(executor="process")
    def in_process() -> str:
        return current_app.name

    def create_app(name: str = "notes") -> Flask:
        app = Flask(name)
        jobs.init_app(app)
        return app
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SONIQ_DATABASE_URL", "SONIQ_APP", "FLASK_APP"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def jobs() -> FlaskSoniq:
    return FlaskSoniq()


Make = Callable[..., Flask]


@pytest.fixture
def make_app(jobs: FlaskSoniq, database_url: str) -> Iterator[Make]:
    """Make an app on the extension; its client is closed at the end."""
    with ExitStack() as made:

        def make(name: str = "notes", **config: Any) -> Flask:
            app = Flask(name)
            app.config.update({"SONIQ_DATABASE_URL": database_url, **config})
            jobs.init_app(app)
            made.callback(client_of(app).close)
            return app

        yield make


def client_of(app: Flask) -> AppSoniq:
    client = app.extensions["soniq"]
    assert isinstance(client, AppSoniq)
    return client


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def stored(url: str) -> int:
    with connected(url) as connection:
        row = connection.execute("SELECT count(*) FROM soniq.jobs").fetchone()
    assert row is not None
    return int(row[0])


def test_a_view_enqueues_and_a_worker_runs_the_job_in_a_context_of_the_app(
    jobs: FlaskSoniq, make_app: Make
) -> None:
    @jobs.job
    def note(text: str) -> list[str]:
        assert not hasattr(g, "seen")  # a context of its own, as a request has
        g.seen = text
        return [current_app.name, text]

    app = make_app()

    @app.post("/notes/<text>")
    def create(text: str) -> str:
        return note.enqueue(text)

    ids = [app.test_client().post(f"/notes/{text}").text for text in ("a", "b")]
    client = client_of(app)
    with client.start_worker():
        assert [client.wait(job_id, timeout=20).result for job_id in ids] == [
            ["notes", "a"],
            ["notes", "b"],
        ]


def test_an_async_job_has_the_context_too(jobs: FlaskSoniq, make_app: Make) -> None:
    @jobs.job
    async def name() -> str:
        return current_app.name

    app = make_app()
    with app.app_context():
        job_id = jobs.enqueue(name)
    with client_of(app).start_worker():
        assert client_of(app).wait(job_id, timeout=20).result == "notes"


def test_two_apps_of_one_extension_have_their_own_client_and_context(
    jobs: FlaskSoniq, make_app: Make, empty_database: str
) -> None:
    @jobs.job
    def name() -> str:
        return current_app.name

    first, second = make_app("first"), make_app("second", SONIQ_DATABASE_URL=empty_database)
    client_of(second).setup()
    assert client_of(first) is not client_of(second)
    ids = {}
    for app in (first, second):
        with app.app_context():
            ids[app.name] = name.enqueue()
    assert stored(empty_database) == 1
    with client_of(first).start_worker(), client_of(second).start_worker():
        for app in (first, second):
            assert client_of(app).wait(ids[app.name], timeout=20).result == app.name


def test_a_task_declared_after_init_app_is_known_to_the_app(
    jobs: FlaskSoniq, make_app: Make
) -> None:
    app = make_app()

    @jobs.job
    def late() -> int:
        return 1

    job_id = jobs.enqueue(late)  # the only app: no context is needed
    with client_of(app).start_worker():
        assert client_of(app).wait(job_id, timeout=20).result == 1


def test_without_an_app_or_with_two_the_error_says_what_to_do(
    jobs: FlaskSoniq, make_app: Make
) -> None:
    @jobs.job
    def note() -> None: ...

    keep = [Flask("elsewhere")]
    with keep[0].app_context(), pytest.raises(SettingsError, match="init_app"):
        jobs.enqueue(note)
    apps = [make_app("one"), make_app("two")]
    with pytest.raises(UsageError, match="app_context"):
        jobs.enqueue(note)
    assert len(apps) == 2


def test_the_configuration_is_checked(make_app: Make, jobs: FlaskSoniq) -> None:
    with pytest.raises(UnknownOption, match="concurrency"):
        make_app(SONIQ_CONCURENCY=3)
    with pytest.raises(SettingsError, match="concurrency"):
        make_app(SONIQ_CONCURRENCY="many")
    app = make_app(SONIQ_CONCURRENCY=3)
    assert client_of(app).settings.concurrency == 3
    with pytest.raises(InvalidOption, match="already"):
        jobs.init_app(app)


def test_the_database_is_that_of_flask_sqlalchemy_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = {"SQLALCHEMY_DATABASE_URI": "postgresql+psycopg://u:p@h/shop?sslmode=require"}
    named = {"SONIQ_DATABASE_URL": "postgresql://other/jobs"}
    assert configured(uri) == {"database_url": "postgresql://u:p@h/shop?sslmode=require"}
    assert configured({**uri, **named}) == {"database_url": "postgresql://other/jobs"}
    assert configured({"SQLALCHEMY_DATABASE_URI": "sqlite://"}) == {}
    monkeypatch.setenv("SONIQ_DATABASE_URL", "postgresql://env/jobs")
    assert configured(uri) == {}


def test_a_session_of_flask_sqlalchemy_takes_the_job_with_it(
    jobs: FlaskSoniq, database_url: str
) -> None:
    @jobs.job
    def note(text: str) -> None: ...

    db = SQLAlchemy()
    app = Flask("notes")
    address = psycopg.conninfo.conninfo_to_dict(database_url)
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": address}
    app.config["SONIQ_DATABASE_URL"] = database_url
    db.init_app(app)
    jobs.init_app(app)
    try:
        with app.app_context():
            jobs.enqueue(note, connection=db.session, text="no")
            db.session.rollback()
            assert stored(database_url) == 0
            jobs.within(db.session).enqueue(note, text="yes")
            assert stored(database_url) == 0
            db.session.commit()
            assert stored(database_url) == 1
            db.session.remove()
            db.engine.dispose()
    finally:
        client_of(app).close()


def test_flask_soniq_is_the_command_line_for_the_app(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text("\n".join(line[4:] for line in TALK.splitlines()))

    def call(*arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}",
                "SONIQ_DATABASE_URL": database_url,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def flask(*arguments: str) -> str:
        return call("flask", "--app", "talk:create_app('club')", *arguments)

    for name in ("in_thread", "on_loop", "in_process"):
        flask("soniq", "enqueue", f"talk.{name}")
    flask("soniq", "worker", "--run-once", "--processes", "2")
    with SoniqSync(database_url) as eq:
        done = {job.task: job for job in eq.list_jobs()}
    assert {name: (job.status, job.result) for name, job in done.items()} == {
        "talk.in_thread": ("done", "club"),
        "talk.on_loop": ("done", "club"),
        "talk.in_process": ("done", "club"),
    }
    assert "Run jobs until stopped" in flask("soniq", "worker", "--help")
    job_id = flask("soniq", "enqueue", "talk.in_thread").split()[0]
    named = "soniq.integrations.flask:soniq"
    call("soniq", "worker", named, "--run-once", FLASK_APP="talk:create_app('team')")
    with SoniqSync(database_url) as eq:
        assert eq.get_result(job_id) == "team"
