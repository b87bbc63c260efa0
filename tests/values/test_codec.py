"""What is written is what is read, and what cannot be is refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from soniq.errors import InvalidArguments, PayloadTooLarge
from soniq.job import codec

from .json_values import same, values

LIMIT = 1 << 20


def encode(value: object, limit: int = LIMIT) -> str:
    return codec.encode(value, limit=limit, what="argument")


@pytest.fixture(params=["orjson", "json"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With orjson and as if it were not installed."""
    if request.param == "json":
        monkeypatch.setitem(sys.modules, "orjson", None)
    else:
        pytest.importorskip("orjson")
    codec._orjson.cache_clear()
    yield request.param
    codec._orjson.cache_clear()


@given(values)
def test_every_json_value_comes_back_the_same(value: Any) -> None:
    assert same(codec.decode(encode(value)), value)


@given(values)
def test_no_reader_but_the_plain_one_is_needed(value: Any) -> None:
    assert same(json.loads(encode(value)), value)


@given(values)
def test_the_text_is_compact_and_valid_json_in_utf8(value: Any) -> None:
    text = encode(value)
    assert len(text.encode()) <= len(encode([value]).encode()) - 2
    assert encode(json.loads(text)) == text


@pytest.mark.parametrize(
    "value",
    [
        2**63 - 1,
        2**63,
        -(2**63) - 1,
        2**64,
        10**18,
        10**40,
        1e22,
        1e23,
        -1.5e300,
        1e16,
        0.1,
        5e-324,
    ],
    ids=repr,
)
def test_large_numbers_are_read_exactly(reader: str, value: float) -> None:
    """orjson would read integers beyond 64 bits as floats."""
    assert same(codec.decode(encode([value])), [value])


@pytest.mark.parametrize("value", [1e16, 1e22, 1e23, -1.5e300, 1.7976931348623157e308], ids=repr)
def test_large_floats_are_written_as_jsonb_will_write_them(value: float) -> None:
    """With an exponent, jsonb would drop it, and the point with it."""
    text = encode({"a": value})
    assert "e" not in text
    assert text.endswith(".0}")
    assert same(json.loads(text), {"a": value})


@pytest.mark.parametrize("text", ["1e+23", 'a"1e+23', "\\", '\\"2e+30', "e+"])
def test_texts_that_look_like_large_floats_stay_as_they_are(reader: str, text: str) -> None:
    assert codec.decode(encode({text: [text, 1e30, text]})) == {text: [text, 1e30, text]}


def test_a_tuple_is_written_as_a_list() -> None:
    assert codec.decode(encode({"pair": (1, (2,))})) == {"pair": [1, [2]]}


REFUSED: list[tuple[Any, str]] = [
    ({"when": datetime.now(UTC)}, "argument 'when' is a datetime"),
    ({"a": [1, {"b": {1}}]}, "argument 'a'[1] 'b' is a set"),
    ({"a": b"x"}, "argument 'a' is a bytes"),
    ({"a": Decimal(1)}, "argument 'a' is a Decimal"),
    ({"a": MappingProxyType({})}, "argument 'a' is a mappingproxy"),
    ({"a": float("nan")}, "argument 'a' is nan"),
    ({"a": [float("inf")]}, "argument 'a'[0] is inf"),
    ({"a": {"b": -float("inf")}}, "argument 'a' 'b' is -inf"),
    ({"a": "x\0y"}, "argument 'a' holds a NUL"),
    ({"a": [{"b\0": 1}]}, "argument 'a'[0] 'b\\x00' holds a NUL"),
    ({"a": "\ud800"}, "argument 'a' holds half a surrogate pair"),
    ({"a": {"\udfff": 1}}, "A key of argument 'a' holds half a surrogate pair"),
    ({"a": {1: 2}}, "argument 'a' has the key 1"),
    ({"a": [{None: 2}]}, "argument 'a'[0] has the key None"),
    ({True: 2}, "argument has the key True"),
    (object(), "argument is a object"),
    ({"a": [1, 10**5000]}, "argument 'a'[1] is an integer of more digits than Python writes"),
]


@pytest.mark.parametrize(("value", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_json_cannot_hold_is_refused_and_its_place_is_named(value: Any, said: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        encode(value)
    assert said in str(caught.value)


def _circle() -> Any:
    circle: list[Any] = [1]
    circle.append({"again": circle})
    return circle


def _deep() -> Any:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 20):
        deep = [deep]
    return deep


@pytest.mark.parametrize("made", [_circle, _deep])
def test_a_value_without_end_is_refused(made: Any) -> None:
    """It ran into RecursionError, which is none of ours."""
    with pytest.raises(InvalidArguments, match="contains itself or is nested too deeply"):
        encode(made())


def test_a_backslash_before_u0000_is_no_nul() -> None:
    assert codec.decode(encode("\\u0000")) == "\\u0000"


@given(values)
@example(6.103515625e-05)
def test_the_limit_counts_bytes_of_the_text(value: Any) -> None:
    size = len(encode(value).encode())
    assert encode(value, limit=size)
    with pytest.raises(PayloadTooLarge) as caught:
        encode(value, limit=size - 1)
    assert f"{size:,} bytes" in str(caught.value)
    assert "max_payload_bytes" in str(caught.value)


@given(st.lists(st.none() | st.integers() | st.sets(st.integers()), min_size=1))
def test_a_set_anywhere_in_a_list_is_found(value: list[Any]) -> None:
    bad = next((index for index, part in enumerate(value) if isinstance(part, set)), None)
    if bad is None:
        assert codec.decode(encode(value)) == value
    else:
        with pytest.raises(InvalidArguments) as caught:
            encode(value)
        assert f"argument[{bad}] is a set" in str(caught.value)
