"""From the statements of `store/` and `schema/` to the text one database or library understands.

Statements are written once, with `{soniq}` for the schema, `{channel}` for the notification
channel and `%(name)s` for parameters. A percent sign that means itself is written `%%` in a
`Query`, whether it has parameters or not, and plain `%` in a `Script`, which never has any.
"""

from __future__ import annotations

import re
from functools import lru_cache

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_NUMBERED = re.compile(r"\$[1-9]")
_PLACE = re.compile(r"%\((\w+)\)s|%%|:")


def quoted_name(name: str) -> str:
    """Quote a name as SQL wants it: `soniq` becomes `"soniq"`."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """Quote a text literal as SQL wants it: `soniq` becomes `'soniq'`."""
    return "'" + text.replace("'", "''") + "'"


def channel(schema: str) -> str:
    """Name the notification channel of a schema: they share their name."""
    return schema


# 1,024: every statement of ours for a handful of schemas; a test suite has hundreds of schemas.
@lru_cache(maxsize=1024)
def render(sql: str, schema: str) -> str:
    """Fill in the quoted schema and the quoted name of the channel."""
    named = sql.replace("{soniq}", quoted_name(schema))
    return named.replace("{channel}", quoted_text(channel(schema)))


@lru_cache(maxsize=1024)
def encoded(sql: str, schema: str) -> bytes:
    """Render, as the bytes psycopg sends: it need not encode them again at each use."""
    return render(sql, schema).encode()


@lru_cache(maxsize=1024)
def with_colons(sql: str, schema: str) -> str:
    """Render for SQLAlchemy's `text()`: `:name`, each a text; other colons are escaped."""

    def place(found: re.Match[str]) -> str:
        if found[1]:
            return f"CAST(:{found[1]} AS text)"
        return "\\:" if found[0] == ":" else "%"

    return _PLACE.sub(place, render(sql, schema))


@lru_cache(maxsize=1024)
def with_dollars(sql: str, schema: str) -> tuple[str, tuple[str, ...]]:
    """Render for asyncpg: `$1` for parameters, each a text; and their names in that order."""
    names: list[str] = []

    def place(found: re.Match[str]) -> str:
        name = found[1]
        if not name:
            return found[0][0]
        if name not in names:
            names.append(name)
        return f"CAST(${names.index(name) + 1} AS text)"

    return _PLACE.sub(place, render(sql, schema)), tuple(names)


@lru_cache(maxsize=1024)
def numbered(query: str) -> bool:
    """Tell whether a user's query has `$1` placeholders, as asyncpg has them, and not `%s`.

    Only what stands outside of quotes counts, so that `'$1 off'` is a text.
    """
    return _NUMBERED.search(_QUOTED.sub("", query)) is not None
