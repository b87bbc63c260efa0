"""Arguments and results as JSON text: strict, so that what is read is what was written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any

from ..errors import InvalidArguments, PayloadTooLarge, shown

# orjson turns integers beyond 64 bits into floats in silence; such texts are left to json.
_LONG_NUMBER = re.compile(r"\d{19}")

# A text, or a float that Python writes with an exponent because it is large.
_LARGE_FLOAT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?[\d.]+e\+\d+)')

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(value: object, *, limit: int, what: str) -> str:
    """Write a value as JSON that PostgreSQL's jsonb takes and gives back unchanged.

    Args:
        value: None, bool, int, float, str, and lists, tuples and str-keyed dicts of these.
        limit: Most bytes of the text in UTF-8.
        what: What is written, for the message: "argument" or "result".

    Raises:
        InvalidArguments: Something in it cannot be written, or would be read back changed.
        PayloadTooLarge: The text is longer than `limit`.
    """
    quick = _orjson()
    if quick is not None and _is_plain(value):
        try:
            written = quick.dumps(value)
        except TypeError:  # a key, half a surrogate pair, a huge integer: json tells which
            pass
        else:
            if len(written) <= limit and b"\\u0000" not in written:
                return str(written, "utf-8")
    return _encode_slowly(value, limit, what)


def _encode_slowly(value: object, limit: int, what: str) -> str:
    try:
        _check_keys(value, what)
        text = _encoder.encode(value)
        if "e+" in text:
            text = _LARGE_FLOAT.sub(_written_out, text)
        size = len(text.encode())
    except InvalidArguments:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArguments(_complaint(value, what, error)) from None
    if "\\u0000" in text and (path := _find_nul(value, what)):
        raise InvalidArguments(f"{path} holds a NUL character, which PostgreSQL cannot store.")
    if size > limit:
        raise PayloadTooLarge(
            f"The {what}s take {size:,} bytes as JSON; max_payload_bytes is {limit:,}. "
            "Store the data elsewhere and pass a reference, or raise the setting."
        )
    return text


def _written_out(match: re.Match[str]) -> str:
    # jsonb drops the exponent, and 1e23 would come back as an integer that is another number.
    return f"{Decimal(match[1]):f}.0" if match[1] else match[0]


def decode(text: str) -> Any:
    """Read JSON text; with orjson where it is installed and reads the same."""
    quick = _orjson()
    if quick is None or _LONG_NUMBER.search(text):
        return json.loads(text)
    return quick.loads(text)


def decode_row(text: str) -> Any:
    """Read a row that the database wrote as JSON, whatever somebody stored by SQL.

    An integer of more digits than Python reads comes as a `Decimal`: one job must not spoil the
    list it is in.
    """
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)


@cache
def _orjson() -> Any:
    try:
        import orjson
    except ImportError:
        return None
    return orjson


_SCALARS = frozenset({str, int, bool, type(None)})
_KINDS = _SCALARS | {float, dict, list, tuple}


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether orjson writes just what json would: exact types, moderate floats."""
    kind = type(value)
    if depth > 50 or kind not in _KINDS:
        return False
    if kind in _SCALARS:
        return True
    if kind is float:
        # json writes smaller and larger ones with an exponent, which needs care, and refuses NaN.
        return bool(value == 0 or 1e-4 <= abs(value) < 1e15)
    # As keys, orjson takes nothing but str.
    items = value.values() if kind is dict else value
    for item in items:  # all() would make a generator for each of a bulk's jobs: 0.4 us of 1.2
        if type(item) not in _SCALARS and not _is_plain(item, depth + 1):
            return False
    return True


_NESTED = (dict, list, tuple)


def _check_keys(value: object, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidArguments(
                    f"{path} has the key {shown(key)}; JSON keys are text, so it would come back "
                    "changed. Use str keys."
                )
            if isinstance(item, _NESTED):
                _check_keys(item, f"{path} {key!r}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if isinstance(item, _NESTED):
                _check_keys(item, f"{path}[{index}]")


def _complaint(value: object, what: str, error: Exception) -> str:
    path, bad = _find_bad(value, what)
    advice = "Pass plain data: numbers, text, lists, dicts; or ids and ISO dates as text."
    if isinstance(bad, float):
        return f"{path} is {bad!r}, which JSON cannot hold. Pass None or text instead."
    if isinstance(bad, str):
        return f"{path} holds half a surrogate pair, which is no Unicode text."
    if type(bad) is int:  # Python neither writes nor reads integers of more than 4,300 digits
        return f"{path} is an integer of more digits than Python writes. Pass it as text."
    if isinstance(error, RecursionError) or "Circular" in str(error):
        return f"{path} contains itself or is nested too deeply for JSON. {advice}"
    return f"{path} is a {type(bad).__name__}, which JSON cannot hold. {advice}"


def _find_bad(value: object, path: str, depth: int = 0) -> tuple[str, object]:
    """Walk to the first part that cannot be encoded alone."""
    items: list[tuple[str, object]] = []
    if depth < 50 and isinstance(value, Mapping):
        for key in value:
            if isinstance(key, str) and not _is_unicode(key):
                return f"A key of {path}", key
        items = [(f"{path} {key!r}", item) for key, item in value.items()]
    elif depth < 50 and isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    for where, item in items:
        try:
            _encoder.encode(item).encode()
        except (TypeError, ValueError, RecursionError):
            return _find_bad(item, where, depth + 1)
    return path, value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find_nul(value: object, path: str) -> str | None:
    if isinstance(value, str):
        return path if "\0" in value else None
    parts: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        parts = [(f"{path} {key!r}", part) for key, item in value.items() for part in (key, item)]
    elif isinstance(value, list | tuple):
        parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return next((found for where, part in parts if (found := _find_nul(part, where))), None)
