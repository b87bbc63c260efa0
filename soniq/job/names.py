"""Texts that name something: tasks, queues, tags, keys."""

from __future__ import annotations

from ..errors import InvalidOption, shown


def checked_name(value: object, what: str, longest: int) -> str:
    """Text of 1 to `longest` characters without NUL or half a surrogate pair."""
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        raise InvalidOption(
            f"{what} must be text of 1 to {longest} characters, not {shown(value)}."
        )
    if "\0" in value or not is_unicode(value):
        raise InvalidOption(
            f"{what} {shown(value)} holds a character that PostgreSQL cannot store."
        )
    return value


def is_unicode(text: str) -> bool:
    """Tell whether a text can be written: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
