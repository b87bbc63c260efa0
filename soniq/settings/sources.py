"""Where the values of settings come from: code, the environment, `pyproject.toml`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .table import FIELDS, Settings, read_all, read_arguments, unknown


def load(
    arguments: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Gather the settings from arguments, environment, `pyproject.toml` and defaults.

    Args:
        arguments: Values given in code; None as a value means "not given".
        environ: The environment to read; the process's by default.
        folder: Where to look for `pyproject.toml`; the working folder by default.

    Raises:
        UnknownOption: An argument that is no setting.
        SettingsError: A value of the wrong type or out of range, wherever it came from.
    """
    given = read_arguments(arguments or {})
    values = _from_file(folder or Path.cwd())
    values |= _from_environment(os.environ if environ is None else environ)
    values |= given
    return Settings(**values)


def reference() -> list[tuple[str, str, str]]:
    """List (name, default, meaning) of every setting, for documents and `--help`."""
    return [(s.name, repr(s.default), s.metadata["doc"]) for s in FIELDS.values()]


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    given = {name: environ[key] for name in FIELDS if environ.get(key := f"SONIQ_{name.upper()}")}
    return read_all(given, lambda name: f"SONIQ_{name.upper()}")


def _from_file(folder: Path) -> dict[str, Any]:
    section = project_section(folder)
    given = {name: value for name, value in section.items() if name in FIELDS}
    strange = [name for name in section if name not in FIELDS and name != "app"]
    if strange:
        raise SettingsError(f"[tool.soniq] in {folder / 'pyproject.toml'}: {unknown(strange[0])}")
    return read_all(given, lambda name: f"[tool.soniq] {name}")


def project_section(folder: Path) -> dict[str, Any]:
    """Read `[tool.soniq]` of the folder's `pyproject.toml`; empty where there is none."""
    path = folder / "pyproject.toml"
    try:
        with path.open("rb") as file:
            section = tomllib.load(file).get("tool", {}).get("soniq", {})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    return section if isinstance(section, dict) else {}
