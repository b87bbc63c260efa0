"""Find the application: in what was named, or in the few files where it usually is."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import AppNotFound
from ..settings import project_section
from .importing import load_attribute, load_module

if TYPE_CHECKING:
    from ..client.base import Base
    from ..client.sync import SoniqSync

FILES = ("jobs.py", "tasks.py", "app.py", "main.py")

_NEXT = "Name it as module:name, for example --app app:eq."


@dataclass(slots=True)
class Search:
    """One search for the application.

    Attributes:
        folder: The working folder.
        environ: The environment.
        found: The clients found so far, by where; one for an application.
        looked: What was looked at in vain, in words.
    """

    folder: Path
    environ: Mapping[str, str]
    found: dict[str, Base] = field(default_factory=dict)
    looked: list[str] = field(default_factory=list)

    def run(self, argument: str | None) -> None:
        """Look in the stated order; the first place that names one decides."""
        # As `python -m` has it: the installed command starts in its own folder instead.
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        if (spec := self._named(argument)) is not None:
            where, app = _from_spec(spec, self.folder)
            self.found[where] = app
            self._import_jobs_modules()
        elif modules := self._import_jobs_modules():
            self.take(modules)
        else:
            self.take(self._import_files())

    def _named(self, argument: str | None) -> str | None:
        section = project_section(self.folder).get("app")
        places = (
            ("--app", argument),
            ("SONIQ_APP", self.environ.get("SONIQ_APP")),
            ("[tool.soniq] app in pyproject.toml", section if isinstance(section, str) else None),
        )
        for place, spec in places:
            if spec:
                return spec
            self.looked.append(f"{place} (not set)")
        return None

    def _import_jobs_modules(self) -> list[ModuleType]:
        """Import what holds tasks, also beside an application that was named."""
        names = self.environ.get("SONIQ_JOBS_MODULES", "").split(",")
        modules = [load_module(name.strip()) for name in names if name.strip()]
        if not modules:
            self.looked.append("SONIQ_JOBS_MODULES (not set)")
        return modules

    def _import_files(self) -> list[ModuleType]:
        modules = []
        concerned = _concerned(self.folder)
        for file in FILES:
            if file in concerned:
                modules.append(load_module(file.removesuffix(".py")))
            else:
                there = (self.folder / file).is_file()
                self.looked.append(f"{file} ({'does not use soniq' if there else 'absent'})")
        return modules

    def take(self, modules: list[ModuleType]) -> None:
        """Take the applications in modules, each once, by whatever name it is met first."""
        for module in modules:
            clients = dict(_clients(module))
            if not clients:
                self.looked.append(f"{module.__name__} (no Soniq in it)")
            for where, client in clients.items():
                if all(client._app is not other._app for other in self.found.values()):
                    self.found[where] = client


def find(
    argument: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Base:
    """Find the application.

    Args:
        argument: What the command line named, or None.
        environ: The environment; the process's by default.
        folder: The working folder by default.

    Raises:
        AppNotFound: None, or more than one, was found, or its module cannot be imported.
    """
    search = Search(folder or Path.cwd(), os.environ if environ is None else environ)
    search.run(argument)
    if len(search.found) == 1:
        return next(iter(search.found.values()))
    if search.found:
        raise AppNotFound(_ambiguous(search))
    raise AppNotFound(f"No application was found. Looked at {', '.join(search.looked)}. {_NEXT}")


def find_any(
    argument: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Base | None:
    """Find the application if there is one.

    Raises:
        AppNotFound: More than one was found, or what was named is not there.
    """
    search = Search(folder or Path.cwd(), os.environ if environ is None else environ)
    search.run(argument)
    if len(search.found) > 1:
        raise AppNotFound(_ambiguous(search))
    return next(iter(search.found.values()), None)


def synchronous(client: Base) -> SoniqSync:
    """Give the application's sync client."""
    from ..client.sync import SoniqSync

    if isinstance(client, SoniqSync):
        return client
    twin: SoniqSync = client.sync  # type: ignore[attr-defined]
    return twin


def _ambiguous(search: Search) -> str:
    names = list(search.found)
    return (
        f"There are {len(names)} applications: {', '.join(names)}. Name one, for example "
        f"--app {names[0]}."
    )


def _from_spec(spec: str, folder: Path) -> tuple[str, Base]:
    from ..client.base import Base

    module_name, _, name = spec.partition(":")
    module = load_module(module_name, folder)
    if not name:
        return _only(module)
    value = load_attribute(module, name)
    if isinstance(value, Base):
        return spec, value
    inside = getattr(value, "eq", None) or getattr(getattr(value, "state", None), "eq", None)
    if isinstance(inside, Base):
        return f"{spec}.eq", inside
    near = ", ".join(dict(_clients(module))) or f"no Soniq is in {module.__name__}"
    raise AppNotFound(f"{spec} is a {type(value).__name__}, not a Soniq or SoniqSync ({near}).")


def _only(module: ModuleType) -> tuple[str, Base]:
    search = Search(Path(), {})
    search.take([module])
    if len(search.found) > 1:
        raise AppNotFound(_ambiguous(search))
    if not search.found:
        raise AppNotFound(f"There is no Soniq or SoniqSync in {module.__name__}. {_NEXT}")
    return next(iter(search.found.items()))


def _clients(module: ModuleType) -> Iterator[tuple[str, Base]]:
    """List the clients in a module; else those of its tasks; else those of what it imported."""
    found = dict(_direct(module)) or dict(_of_tasks(module))
    if not found:
        for value in list(vars(module).values()):
            if isinstance(value, ModuleType) and value is not module:
                found |= dict(_direct(value))
    yield from found.items()


def _direct(module: ModuleType) -> Iterator[tuple[str, Base]]:
    from ..client.base import Base

    for name, value in list(vars(module).items()):
        # One that is bound to a connection is no application, but a use of it.
        if isinstance(value, Base) and value._connection is None:
            yield f"{module.__name__}:{name}", value


def _of_tasks(module: ModuleType) -> Iterator[tuple[str, Base]]:
    from ..client.base import Base
    from ..job.task import Task

    for name, value in list(vars(module).items()):
        client = getattr(value, "_client", None) if isinstance(value, Task) else None
        if isinstance(client, Base):
            yield f"{module.__name__}:{name}", client


def _concerned(folder: Path) -> set[str]:
    """Tell which of the files use soniq, by themselves or by one of the others.

    The rest are not ours to import: importing a script runs it.
    """
    imports = {file: _imports(folder / file) for file in FILES if (folder / file).is_file()}
    concerned = {file for file, names in imports.items() if "soniq" in names}
    while more := {
        file
        for file, names in imports.items()
        if file not in concerned and names & {known.removesuffix(".py") for known in concerned}
    }:
        concerned |= more
    return concerned


def _imports(path: Path) -> set[str]:
    """List the top-level names a file imports; one that cannot be parsed counts as using soniq."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Its own error, with file and line, is what importing it will say.
        return {"soniq"} if b"soniq" in path.read_bytes() else set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names
