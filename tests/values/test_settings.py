"""Settings: argument over environment over file over default, each checked, each used."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import soniq
from soniq.errors import SettingsError, UnknownOption, shown
from soniq.settings import Settings, load, project_section, reference

NAMES = [setting.name for setting in fields(Settings)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose pyproject.toml sets concurrency and schema."""
    text = '[tool.soniq]\napp = "shop.jobs:eq"\nconcurrency = 3\nschema = "from_file"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    return tmp_path


def read(folder: Path, environ: dict[str, str] | None = None, **arguments: Any) -> Settings:
    return load(arguments, environ=environ or {}, folder=folder)


def test_an_argument_wins_over_the_environment_over_the_file_over_the_default(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environ = {"SONIQ_CONCURRENCY": "4"}
    assert read(project, environ, concurrency=5).concurrency == 5
    assert read(project, environ).concurrency == 4
    assert read(project).concurrency == 3
    assert read(tmp_path_factory.mktemp("empty")).concurrency == 10
    assert read(project, environ, concurrency=5).schema == "from_file"


def test_none_as_an_argument_and_nothing_in_the_environment_mean_not_given(project: Path) -> None:
    assert read(project, {"SONIQ_CONCURRENCY": ""}, concurrency=None).concurrency == 3


# (name, what may be written, what it means)
GOOD: list[tuple[str, Any, Any]] = [
    ("concurrency", "7", 7),
    ("concurrency", 10_000, 10_000),
    ("threads", "none", None),
    ("threads", 2, 2),
    ("processes", "4", 4),
    ("process_memory_limit", "512", 512),
    ("queues", "a, b,,c", ("a", "b", "c")),
    ("queues", ["a"], ("a",)),
    ("queues", "", ()),
    ("poll_interval", "0.5", 0.5),
    ("poll_interval", timedelta(seconds=2), 2.0),
    ("job_timeout", "never", None),
    ("job_timeout", 0, 0.0),
    ("dead_letter_ttl", "None", None),
    ("pgbouncer", "yes", True),
    ("pgbouncer", "OFF", False),
    ("pgbouncer", True, True),
    ("notify", "off", "off"),
    ("schema", "My_jobs2", "My_jobs2"),
    ("task_name_pattern", r"\w+", r"\w+"),
    ("log_level", "DEBUG", "DEBUG"),
    ("result_ttl", timedelta(days=2), 172_800.0),
]


@pytest.mark.parametrize(("name", "value", "meaning"), GOOD, ids=str)
def test_values_are_read_from_what_people_write(
    tmp_path: Path, name: str, value: Any, meaning: Any
) -> None:
    assert getattr(read(tmp_path, **{name: value}), name) == meaning
    if isinstance(value, str) and value:
        assert getattr(read(tmp_path, {f"SONIQ_{name.upper()}": value}), name) == meaning


BAD: list[tuple[str, Any, str]] = [
    ("concurrency", "many", "a number"),
    ("concurrency", 0, "between 1 and 10000"),
    ("concurrency", 10_001, "between 1 and 10000"),
    ("concurrency", 1.5, "a whole number"),
    ("concurrency", True, "a whole number"),
    ("poll_interval", "soon", "a number"),
    ("poll_interval", 0, "at least 0.01"),
    ("poll_interval", "nan", "at least"),
    ("poll_interval", "inf", "at most 3155760000"),
    ("heartbeat_timeout", 1e30, "at most 3155760000"),
    ("job_timeout", -1, "at least 0"),
    ("process_max_jobs", 2**31, "at most 2147483647"),
    ("process_max_jobs", 10**5000, "<int that cannot be shown> is out of range"),
    ("queues", [""], "1 to 128 characters"),
    ("queues", "q" * 129, "1 to 128 characters"),
    ("queues", ["a\0b"], "1 to 128 characters"),
    ("environment", "\ud800", "surrogate"),
    ("environment", "x\0", "NUL"),
    ("schema", "x" * 100_000, "... (100,002 characters) is not valid"),
    ("scheduler", 2, "yes or no"),
    ("scheduler", None.__class__, "yes or no"),
    ("poll_interval", True, "seconds"),
    ("pgbouncer", "maybe", "yes or no"),
    ("notify", "sometimes", "one of auto, always, off"),
    ("schema", "", "letters, digits"),
    ("schema", "1st", "letters, digits"),
    ("schema", "a-b", "letters, digits"),
    ("schema", 'x"; DROP', "letters, digits"),
    ("schema", "pg_soniq", "pg_"),
    ("schema", "information_schema", "PostgreSQL's own"),
    ("schema", "x" * 41, "1 to 40"),
    ("task_name_pattern", "(", "a regular expression"),
    ("queues", 5, "names"),
    ("queues", [1], "names"),
    ("database_url", "a\0b", "NUL"),
    ("max_payload_bytes", 1, "at least 2"),
    ("log_level", "loud", "one of DEBUG"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD, ids=lambda value: ascii(shown(value))[:30])
def test_a_bad_value_says_where_it_came_from_and_what_would_be_right(
    tmp_path: Path, name: str, value: Any, said: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as caught:
        read(tmp_path, **{name: value})
    assert str(caught.value).startswith(f"{name}=")
    if isinstance(value, str) and value:
        with pytest.raises(SettingsError, match=f"^SONIQ_{name.upper()}: "):
            read(tmp_path, {f"SONIQ_{name.upper()}": value})


def test_a_bad_value_in_the_file_names_the_section(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.soniq]\nconcurrency = -1\n")
    with pytest.raises(SettingsError, match=r"^\[tool\.soniq\] concurrency: -1"):
        read(tmp_path)


def test_no_password_is_repeated_in_a_message(tmp_path: Path) -> None:
    for name in ("database_url", "listen_url"):
        with pytest.raises(SettingsError) as caught:
            read(tmp_path, **{name: "postgresql://me:secret@host/db\0"})
        assert "secret" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownOption, match="Did you mean 'concurrency'"):
        read(tmp_path, concurency=5)
    (tmp_path / "pyproject.toml").write_text("[tool.soniq]\nshema = 'x'\n")
    with pytest.raises(SettingsError, match=r"pyproject\.toml.*Did you mean 'schema'"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "[tool]\n", "[tool.other]\n", "[tool.soniq]\n"])
def test_a_project_that_says_nothing_means_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert read(tmp_path) == load({}, environ={}, folder=tmp_path / "none")
    assert project_section(tmp_path) == {}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.soniq\n")
    with pytest.raises(SettingsError, match=r"pyproject\.toml is not valid TOML"):
        read(tmp_path)


def test_the_application_of_the_file_is_no_setting(project: Path) -> None:
    assert project_section(project)["app"] == "shop.jobs:eq"
    assert not hasattr(read(project), "app")


def test_a_pool_cannot_be_smaller_than_its_least(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pool_min_size \(5\).*pool_max_size \(2\)"):
        read(tmp_path, pool_min_size=5, pool_max_size=2)


@given(st.floats(0.05, 1e4), st.floats(0.2, 1e4))
def test_a_worker_may_always_miss_two_beats(interval: float, timeout: float) -> None:
    arguments = {"heartbeat_interval": interval, "heartbeat_timeout": timeout}
    settings = load(arguments, environ={}, folder=Path("/nonexistent"))
    assert settings.heartbeat_interval <= settings.heartbeat_timeout / 3
    assert settings.heartbeat_interval <= interval
    changed = Settings().with_(**arguments)
    assert changed.heartbeat_interval == settings.heartbeat_interval


def test_a_change_is_checked_as_the_first_value_was() -> None:
    """`with_` let pass what `load` refuses."""
    settings = Settings()
    assert settings.with_(concurrency="3", queues=None).concurrency == 3
    with pytest.raises(SettingsError, match="concurrency="):
        settings.with_(concurrency=0)
    with pytest.raises(SettingsError, match="pool_min_size"):
        settings.with_(pool_min_size=11)
    with pytest.raises(UnknownOption, match="Did you mean 'queues'"):
        settings.with_(queue=["a"])
    assert settings == Settings()


def test_settings_agree_with_one_another_whoever_makes_them() -> None:
    with pytest.raises(SettingsError, match="pool_min_size"):
        Settings(pool_min_size=11)
    with pytest.raises(SettingsError, match="pool_min_size"):
        replace(Settings(), pool_max_size=0)
    assert replace(Settings(), heartbeat_timeout=3.0).heartbeat_interval == 1.0


def test_the_defaults_are_what_the_reference_says_and_pass_their_own_checks() -> None:
    listed = {name: default for name, default, meaning in reference() if meaning}
    assert list(listed) == NAMES
    settings = Settings()
    given_again = {name: getattr(settings, name) for name in NAMES}
    assert settings.with_(**given_again) == settings
    assert all(listed[name] == repr(getattr(settings, name)) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_read_by_the_code(name: str) -> None:
    folder = Path(next(iter(soniq.__path__)))
    used = re.compile(rf"settings\.{name}\b")
    files = [file for file in folder.rglob("*.py") if file.parent.name != "settings"]
    assert any(used.search(file.read_text()) for file in files)
