"""Import the user's modules, and say where it was that one of them failed."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import AppNotFound

_OURS = str(Path(__file__).resolve().parent.parent)
_LIBRARY = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def load_module(name: str, folder: Path | None = None) -> ModuleType:
    """Import a module, by its name or by the path of its file.

    Raises:
        AppNotFound: It is not there, or failed; the message says in which file and line.
    """
    if name.endswith(".py"):
        name = _module_of((folder or Path.cwd()) / name)
    elif not name.strip(".") or name.startswith("."):
        raise AppNotFound(_absent(name))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise AppNotFound(_absent(name)) from error
        raise AppNotFound(_failed(name, error)) from error
    except (Exception, SystemExit) as error:
        raise AppNotFound(_failed(name, error)) from error


def load_attribute(module: ModuleType, path: str) -> Any:
    """Follow a dotted path into a module.

    Raises:
        AppNotFound: A step of it is not there, or cannot be made.
    """
    value: Any = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            where = f"{module.__name__} ({module.__file__})"
            raise AppNotFound(f"There is no {path!r} in {where}.") from None
        except Exception as error:  # it may be made when it is asked for
            raise AppNotFound(_failed(f"{module.__name__}:{path}", error)) from error
    return value


def _module_of(path: Path) -> str:
    """Make the file's folder, or that of its outermost package, importable; name the module."""
    parts = [path.stem]
    parent = path.resolve().parent
    while (parent / "__init__.py").is_file():
        parts.insert(0, parent.name)
        parent = parent.parent
    if str(parent) not in sys.path:
        sys.path.insert(0, str(parent))
    return ".".join(parts)


def _absent(name: str) -> str:
    return (
        f"There is no module {name!r}. Modules are looked for from the working folder "
        f"({Path.cwd()}); name it as `import` would, for example package.module:name."
    )


def _failed(name: str, error: BaseException) -> str:
    said = " ".join(str(error).split())
    where, line = _place(error)
    if isinstance(error, SyntaxError):
        said = error.msg
    return (
        f"{name} cannot be imported: {where}, line {line}: {type(error).__name__}: {said} "
        "(--debug shows the traceback)"
    )


def _place(error: BaseException) -> tuple[str, int | None]:
    """Name the file and line of the user's code where it went wrong."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(frame.filename)]
    last = (theirs or frames)[-1]
    return last.filename, last.lineno


def _is_theirs(file: str) -> bool:
    return not file.startswith(("<", _OURS, *_LIBRARY))
