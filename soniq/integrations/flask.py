"""Flask: an extension, with a client for each app and the app's context around each job.

    jobs = FlaskSoniq()                  # beside db = SQLAlchemy()

    @jobs.job(queue="emails")
    def send_welcome_email(user_id: int) -> None: ...

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config["SONIQ_DATABASE_URL"] = "postgresql://localhost/notes"
        jobs.init_app(app)
        return app

`flask soniq ...` is the whole command line, `flask soniq worker` a worker of the app.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo

from ..client.application import Application, install
from ..client.sync import SoniqSync
from ..errors import InvalidOption, SettingsError, UsageError
from ..job.context import JobContext

if TYPE_CHECKING:
    from ..db.sync import Database
    from ..worker.worker import Worker

APPLICATION = "soniq.integrations.flask:soniq"

# The app whose jobs a worker runs, where it was started by that app's client.
_served: ContextVar[Flask] = ContextVar("soniq_flask_app")


class FlaskSoniq(SoniqSync):
    """The extension: declares tasks for any number of apps, and is the client of the current one.

    Settings come from here, or from the app's configuration as `SONIQ_` and their name in capitals,
    or from where they come without Flask. The database is Flask-SQLAlchemy's where nothing names
    another.

    Args:
        app: An app to set up at once, as by `init_app`.
        plugins: Objects with `install(app)`, called in order.
        retry_policy: As of `SoniqSync`.
        **settings: Any setting by its name, the same for all apps.

    Raises:
        UnknownOption: A keyword that is no setting.
        SettingsError: A setting of the wrong type or out of range.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        plugins: Iterable[Any] = (),
        retry_policy: Any = None,
        **settings: Any,
    ) -> None:
        self._given = settings
        self._declared = Application(
            settings.get("database_url"), None, None, retry_policy, _without_url(settings)
        )
        self._declared.hooks.middleware.append(self._in_context)
        self._apps: WeakSet[Flask] = WeakSet()
        self._loaded: Flask | None = None
        install(plugins, self)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give an app its client, `app.extensions["soniq"]`, and the command `flask soniq`.

        Raises:
            InvalidOption: It has one already.
            UnknownOption: Its configuration has a `SONIQ_` key that is no setting.
            SettingsError: A setting of the wrong type or out of range.
        """
        if "soniq" in app.extensions:
            raise InvalidOption(f"{app!r} has a Soniq already. Call init_app once for an app.")
        chosen = {**configured(app.config), **self._given}
        declared = self._declared
        own = Application(
            chosen.get("database_url"), None, None, declared.retry_policy, _without_url(chosen)
        )
        own.share(declared)
        app.extensions["soniq"] = client = AppSoniq._of(own)
        client.flask = app
        app.cli.add_command(_command())
        self._apps.add(app)

    # -- the client of the current app

    @property
    def _app(self) -> Application:
        found = self._find()
        return self._declared if found is None else _client(found)._app

    @_app.setter
    def _app(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, app: Application
    ) -> None:
        raise AssertionError("an extension has the applications of its Flask apps")

    @property
    def _database(self) -> Database:
        return _client(self._current())._database

    def close(self) -> None:
        """Close the current app's pool; a later use opens another."""
        _client(self._current()).close()

    def _worker(
        self, concurrency: int | None, queues: Iterable[str] | None, *, run_once: bool = False
    ) -> Callable[[], Awaitable[Worker]]:
        self._refuse_if_bound("A worker")
        return _client(self._current())._worker(concurrency, queues, run_once=run_once)

    # -- which app

    def _find(self) -> Flask | None:
        """Give the app in force, or the only one there is."""
        return _in_force() or (next(iter(self._apps)) if len(self._apps) == 1 else None)

    def _current(self) -> Flask:
        if (found := self._find()) is not None:
            return found
        how = "more than one" if self._apps else "none, so call init_app(app) first"
        raise UsageError(
            f"It is not clear which Flask app is meant: there is {how}. Use the extension within "
            "`with app.app_context():`, or `app.extensions['soniq']`."
        )

    def _in_context(self, context: JobContext, call_next: Callable[[], Any]) -> Any:
        """Run a job in a context of its own of its app, as a request is."""
        app = self._find() or self._load()
        task = self.registry.find(context.job_name)
        if task is not None and task.is_async:
            return _async_in_context(app, call_next)
        with app.app_context():
            return call_next()

    def _load(self) -> Flask:
        """Make the app in a process for jobs, which has only imported their modules."""
        self._loaded = _load()
        return self._loaded


class AppSoniq(SoniqSync):
    """The client of one Flask app: `app.extensions["soniq"]`.

    Attributes:
        flask: The app.
    """

    flask: Flask

    def _worker(
        self, concurrency: int | None, queues: Iterable[str] | None, *, run_once: bool = False
    ) -> Callable[[], Awaitable[Worker]]:
        make = super()._worker(concurrency, queues, run_once=run_once)

        async def served() -> Worker:
            _served.set(self.flask)
            return await make()

        return served


def configured(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the settings in an app's configuration."""
    found = {
        key.removeprefix("SONIQ_").lower(): value
        for key, value in config.items()
        if key.startswith("SONIQ_")
    }
    if "SONIQ_DATABASE_URL" not in os.environ:
        url = re.match(
            r"postgres(?:ql)?(?:\+\w+)?://(.+)", str(config.get("SQLALCHEMY_DATABASE_URI"))
        )
        if url is not None:
            found.setdefault("database_url", f"postgresql://{url[1]}")
    return found


def __getattr__(name: str) -> Any:
    """Give `soniq`, the client of the app of this context or of FLASK_APP, to `soniq --app`."""
    if name != "soniq":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _client(_in_force() or _load())


def _in_force() -> Flask | None:
    """Give the app that this worker serves, or of this context."""
    if (served := _served.get(None)) is not None:
        return served
    return current_app._get_current_object() if current_app else None  # type: ignore[attr-defined]


def _load() -> Flask:
    return ScriptInfo(os.environ.get("FLASK_APP")).load_app()


def _client(app: Flask) -> AppSoniq:
    client = app.extensions.get("soniq")
    if not isinstance(client, AppSoniq):
        raise SettingsError(f"{app!r} has no Soniq yet. Call init_app(app) on the extension.")
    return client


def _without_url(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "database_url"}


async def _async_in_context(app: Flask, call_next: Callable[[], Awaitable[Any]]) -> Any:
    with app.app_context():
        return await call_next()


def _command() -> click.Command:
    """Make `flask soniq`, which hands its arguments over as they are."""

    @click.command(
        "soniq",
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
        short_help="Background jobs: worker, status, jobs, dead-letter, ...",
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def soniq(context: click.Context, arguments: tuple[str, ...]) -> None:
        from ..cli.main import main

        script = context.ensure_object(ScriptInfo)
        # By the environment, so that processes for jobs make the same.
        if script.app_import_path:
            os.environ["FLASK_APP"] = str(script.app_import_path)
        with script.load_app().app_context():
            main(arguments, application=APPLICATION)

    return soniq
