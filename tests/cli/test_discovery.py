"""Where the application is looked for. Each is told by its tasks, which an unknown one lists."""

from __future__ import annotations

import pytest

from .conftest import PATIENCE, Shell

pytestmark = PATIENCE


def app(task: str, made: str = "Soniq()", name: str = "eq") -> str:
    return (
        f"from soniq import Soniq, SoniqSync\n{name} = {made}\n"
        f"@{name}.job(name='{task}')\ndef handler(): ...\n"
    )


def tasks(shell: Shell, *args: str, **env: str) -> str:
    """Answer the tasks of the application that is found."""
    said = shell("enqueue", "???", *args, code=2, **env).stderr
    assert "This application has: " in said, said
    return said.split("This application has: ")[1].split(". If")[0]


def refusal(shell: Shell, *args: str, **env: str) -> str:
    done = shell("enqueue", "???", *args, code=1, **env)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("file", ["jobs", "tasks", "app", "main"])
def test_it_is_found_in_the_usual_files(bare: Shell, file: str) -> None:
    bare.write(**{file: app("here")})
    assert tasks(bare) == "here"


@pytest.mark.parametrize("made", ["Soniq()", "SoniqSync()"])
def test_either_client_is_an_application(bare: Shell, made: str) -> None:
    bare.write(app=app("here", made))
    assert tasks(bare) == "here"


def test_the_argument_wins_over_every_other_place(bare: Shell) -> None:
    (bare.folder / "pyproject.toml").write_text('[tool.soniq]\napp = "toml:eq"\n')
    bare.write(**{name: app(name) for name in ("arg", "env", "toml", "module", "app")})
    chosen = {"SONIQ_APP": "env:eq", "SONIQ_JOBS_MODULES": "module"}
    assert tasks(bare, "--app", "arg:eq", **chosen) == "arg"
    assert tasks(bare, **chosen) == "env"
    assert tasks(bare, SONIQ_JOBS_MODULES="module") == "toml"
    (bare.folder / "pyproject.toml").unlink()
    assert tasks(bare, SONIQ_JOBS_MODULES="module") == "module"
    assert tasks(bare) == "app"


def test_the_option_may_stand_before_the_command(bare: Shell) -> None:
    bare.write(app=app("app"), other=app("other"))
    said = bare("--app", "other:eq", "enqueue", "???", code=2).stderr
    assert "This application has: other." in said


@pytest.mark.parametrize(
    "spec", ["shop.work:eq", "shop.work", "shop/work.py", "shop/work.py:eq", "shop.work:web"]
)
def test_an_application_may_be_named_in_many_ways(bare: Shell, spec: str) -> None:
    (bare.folder / "shop").mkdir()
    (bare.folder / "shop/__init__.py").touch()
    web = "class Web: ...\nweb = Web()\nweb.eq = eq\n"
    (bare.folder / "shop/work.py").write_text(app("here") + web)
    assert tasks(bare, "--app", spec) == "here"


def test_the_module_of_a_web_application_will_do(bare: Shell) -> None:
    bare.write(web="from fastapi import FastAPI\napi = FastAPI()\n" + app("here"))
    assert tasks(bare, "--app", "web") == "here"
    assert "not a Soniq or SoniqSync (web:eq)" in refusal(bare, "--app", "web:api")


def test_modules_of_jobs_add_their_tasks_to_the_application_that_is_named(bare: Shell) -> None:
    more = "import core\n@core.eq.job(name='more')\ndef handler(): ...\n"
    bare.write(core=app("core"), more=more)
    assert tasks(bare, "--app", "core:eq", SONIQ_JOBS_MODULES="more") == "core, more"
    assert tasks(bare, SONIQ_JOBS_MODULES="more") == "core, more"


def test_files_of_one_application_are_no_ambiguity(bare: Shell) -> None:
    bare.write(
        app=app("app"),
        tasks="from app import eq\n@eq.job(name='tasks')\ndef handler(): ...\n",
        main="from tasks import handler\nsync = handler._client.sync\n",
    )
    assert tasks(bare) == "app, tasks"


def test_a_script_that_has_nothing_to_do_with_soniq_is_not_run(bare: Shell) -> None:
    bare.write(main="open('was-run', 'w').close()\n", jobs=app("here"))
    assert tasks(bare) == "here"
    assert not (bare.folder / "was-run").exists()


def test_two_applications_are_both_named(bare: Shell) -> None:
    bare.write(app=app("one"), jobs=app("two"))
    said = refusal(bare)
    assert "2 applications: jobs:eq, app:eq" in said
    assert "--app jobs:eq" in said


def test_none_is_told_with_everything_that_was_looked_at(bare: Shell) -> None:
    bare.write(app="import soniq\n", main="print('hello')\n")
    said = refusal(bare)
    for looked in (
        "--app (not set)",
        "SONIQ_APP (not set)",
        "[tool.soniq] app in pyproject.toml (not set)",
        "SONIQ_JOBS_MODULES (not set)",
        "jobs.py (absent)",
        "tasks.py (absent)",
        "app (no Soniq in it)",
        "main.py (does not use soniq)",
    ):
        assert looked in said
    assert "hello" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import soniq\n\nimport nowhere\n", "app.py, line 3: ModuleNotFoundError: No module"),
        ("import soniq\n\n1 / 0\n", "app.py, line 3: ZeroDivisionError: division by zero"),
        ("import soniq\n\ndef (\n", "app.py, line 3: SyntaxError: "),
        ("import soniq\nexit(4)\n", "app.py, line 2: SystemExit: 4"),
        (
            "from soniq import Soniq\neq = Soniq()\n@eq.job(queu='x')\ndef f(): ...\n",
            "app.py, line 3: UnknownOption: There is no option named 'queu'. Did you mean 'queue'?",
        ),
        ("from soniq import Soniq\neq = Soniq(pool_max_size=0)\n", "app.py, line 2: Settings"),
    ],
)
def test_a_module_that_fails_is_told_by_file_and_line(bare: Shell, text: str, said: str) -> None:
    bare.write(app=text)
    assert said in refusal(bare)
    assert "Traceback" in bare("enqueue", "???", "--debug", code=1).stderr


def test_a_name_that_is_made_when_it_is_asked_for_may_fail(bare: Shell) -> None:
    """As a project of Django's without its settings: that was not foreseen."""
    bare.write(lazy="def __getattr__(name):\n    raise RuntimeError('no settings')\n")
    said = refusal(bare, "--app", "lazy:eq")
    assert "lazy:eq cannot be imported:" in said
    assert "lazy.py, line 2: RuntimeError: no settings" in said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere:eq", "There is no module 'nowhere'"),
        ("app:nothing", "There is no 'nothing' in app"),
        ("app:handler", "app:handler is a"),
        ("empty", "There is no Soniq or SoniqSync in empty"),
        ("nowhere.py", "There is no module 'nowhere'"),
        (":", "There is no module ''"),
        ("../x:eq", "There is no module '../x'"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(bare: Shell, spec: str, said: str) -> None:
    bare.write(app=app("here"), empty="")
    assert said in refusal(bare, "--app", spec)
