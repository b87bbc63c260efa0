"""Values as texts, for hosts whose library would adapt them in its owner's way.

Every statement casts its parameters, so a text does for any of them: no adapter or codec that the
caller set up for numbers, moments, arrays or JSON is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


def texts(params: Mapping[str, object]) -> dict[str, str | None]:
    """Write each value as PostgreSQL reads it."""
    return {name: text(value) for name, value in params.items()}


def text(value: object) -> str | None:
    """Write one value as PostgreSQL reads it; None stays None."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case datetime():
            return value.isoformat()
        case list() | tuple():
            return "{" + ",".join(map(_element, value)) + "}"
        case _:
            raise TypeError(f"a parameter cannot be a {type(value).__name__}")


def _element(value: object) -> str:
    written = text(value)
    if written is None:
        return "NULL"
    return '"' + written.replace("\\", "\\\\").replace('"', '\\"') + '"'
