"""What a caller gives is what the function gets, after a journey through JSON."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq.errors import InvalidArguments, InvalidOption
from soniq.job import JobContext, codec
from soniq.job.arguments import Arguments

from . import signatures

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
CONTEXT = JobContext("id", "task", "q", 1, 4, "worker", NOW, NOW)


def journey(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function as a worker does: bound, written, read, called."""
    arguments = Arguments(function)
    text = codec.encode(arguments.bind(args, kwargs), limit=1 << 20, what="argument")
    positional, named = arguments.call(codec.decode(text), CONTEXT)
    return function(*positional, **named)


def plain(a, b=2, *, c, d=4):
    return a, b, c, d


def only(a, b=2, /, c=3):
    return a, b, c


def rest(a, b=2, *more):
    return a, b, more


def anything(*args, **kwargs):
    return args, kwargs


def named(a, **kwargs):
    return a, kwargs


def everything(a, b=2, /, c=3, *more, d, e=5, **kwargs):
    return a, b, c, more, d, e, kwargs


def nothing():
    return ()


def first(ctx: JobContext, a, b=2):
    return ctx, a, b


def middle(a, ctx: JobContext, b=2):
    return ctx, a, b


def last(a, b=2, *, ctx: JobContext):
    return ctx, a, b


def defaulted(a, b=2, ctx: JobContext | None = None):
    return ctx, a, b


def before_rest(ctx: JobContext, a, *more):
    return ctx, a, more


def between_rest(a, ctx: JobContext, *more, **kwargs):
    return ctx, a, more, kwargs


def after_only(a, b=2, ctx: JobContext = None, /):
    return ctx, a, b


def only_context(ctx: JobContext):
    return ctx


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = [
    (plain, (1,), {"c": 3}, (1, 2, 3, 4)),
    (plain, (1, 9), {"c": 3, "d": 8}, (1, 9, 3, 8)),
    (plain, (), {"d": 8, "c": 3, "b": None, "a": 1}, (1, None, 3, 8)),
    (only, (1,), {}, (1, 2, 3)),
    (only, (1, 8), {"c": 9}, (1, 8, 9)),
    (only, (1, 8, 9), {}, (1, 8, 9)),
    (only, (1,), {"c": 9}, (1, 2, 9)),
    (rest, (1,), {}, (1, 2, ())),
    (rest, (1, 5, 6, 7), {}, (1, 5, (6, 7))),
    (rest, (), {"b": 1, "a": 0}, (0, 1, ())),
    (anything, (), {}, ((), {})),
    (anything, (1, 2), {"x": 3, "args": 4}, None),
    (anything, (1, [2]), {"x": {"y": 3}}, ((1, [2]), {"x": {"y": 3}})),
    (named, (1,), {"b": 2}, (1, {"b": 2})),
    (named, (), {"b": 2, "a": 1}, (1, {"b": 2})),
    (everything, (1,), {"d": 4}, (1, 2, 3, (), 4, 5, {})),
    (everything, (1, 9, 8, 7, 6), {"d": 4, "x": 0}, (1, 9, 8, (7, 6), 4, 5, {"x": 0})),
    (everything, (1,), {"c": 0, "d": 4}, (1, 2, 0, (), 4, 5, {})),
    (nothing, (), {}, ()),
    (first, (1,), {}, (CONTEXT, 1, 2)),
    (middle, (1, 3), {}, (CONTEXT, 1, 3)),
    (middle, (), {"b": 3, "a": 1}, (CONTEXT, 1, 3)),
    (last, (1,), {}, (CONTEXT, 1, 2)),
    (defaulted, (1,), {}, (CONTEXT, 1, 2)),
    (before_rest, (1, 2, 3), {}, (CONTEXT, 1, (2, 3))),
    (between_rest, (1, 2), {"x": 3}, (CONTEXT, 1, (2,), {"x": 3})),
    (between_rest, (), {"a": 1, "x": 3}, (CONTEXT, 1, (), {"x": 3})),
    (after_only, (1,), {}, (CONTEXT, 1, 2)),
    (after_only, (1, 5), {}, (CONTEXT, 1, 5)),
    (only_context, (), {}, CONTEXT),
    (signatures.as_text, (1,), {}, (1, CONTEXT)),
    (signatures.beside_unknown, (1,), {}, (1, CONTEXT)),
    (signatures.quoted_twice, (1,), {}, (1, CONTEXT)),
    (signatures.not_a_context, (1, 2), {}, (1, 2)),
]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "got"),
    [call for call in CALLS if call[3] is not None],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_function_gets_what_the_caller_gave(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], got: Any
) -> None:
    """A context before `*args` got an argument's place, and the call failed in the worker."""
    assert journey(function, *args, **kwargs) == got


_values = st.integers() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_names = st.sampled_from(["c", "d", "e", "x", "y"])


@given(st.lists(_values, min_size=1, max_size=6), st.dictionaries(_names, _values))
def test_any_call_that_python_takes_arrives_as_it_was(args: list[Any], kwargs: Any) -> None:
    try:
        expected = everything(*args, **kwargs)
    except TypeError:
        with pytest.raises(InvalidArguments):
            journey(everything, *args, **kwargs)
    else:
        assert journey(everything, *args, **kwargs) == expected


BAD: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (plain, (), {"a": 1}, "missing"),
    (plain, (1,), {"c": 1, "colour": 2}, "colour"),
    (plain, (), {"a": 1, "c": 1, "dd": 2}, "nearest: 'd'"),
    (plain, (1, 2, 3), {"c": 1}, "too many positional"),
    (plain, (1,), {"a": 1, "c": 1}, "multiple values"),
    (nothing, (1,), {}, "too many"),
    (first, (1,), {"ctx": 5}, "ctx"),
    (between_rest, (1,), {"ctx": 5}, "'ctx' cannot be given by name"),
    (everything, (1,), {"a": 2, "d": 3}, "'a' cannot be given by name"),
    (anything, (1,), {"*": 2}, "'*' cannot be given by name"),
]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "said"), BAD, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_call_that_does_not_fit_is_refused_before_it_is_stored(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    """`**kwargs` named as a positional-only parameter took its place in silence."""
    with pytest.raises(InvalidArguments) as caught:
        Arguments(function).bind(args, kwargs)
    assert said in str(caught.value)
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("function", "stored"),
    [
        (plain, {"a": 1}), (plain, {"a": 1, "c": 1, "z": 1}), (plain, {"a": 1, "c": 1, "*": [1]}),
        (only, {}), (only, {"b": 1}), (rest, {"b": 1, "*": [2, 3]}), (rest, {"a": 1, "*": 5}),
        (rest, {"a": 1, "z": 2}), (between_rest, {"a": 1, "ctx": 2}), (first, {"a": 1, "ctx": 2}),
        (nothing, {"a": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)  # fmt: skip
def test_what_another_release_stored_is_refused_if_it_does_not_fit(
    function: Callable[..., Any], stored: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArguments):
        Arguments(function).call(stored, CONTEXT)


def test_the_names_of_a_task_are_those_a_caller_gives() -> None:
    assert Arguments(middle).names == ("a", "b")
    assert Arguments(middle).context_name == "ctx"
    assert Arguments(plain).context_name is None


def test_a_wrapped_or_partial_function_is_seen_through() -> None:
    @functools.wraps(first)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return first(*args, **kwargs)

    assert journey(wrapper, 1) == (CONTEXT, 1, 2)
    assert Arguments(functools.partial(plain, c=7)).call({"a": 1}) == ((), {"a": 1})


# -- models


class PydanticItem(pydantic.BaseModel):
    sku: str


class PydanticOrder(pydantic.BaseModel):
    id: int
    at: dt.datetime
    items: list[PydanticItem] = []
    note: str = pydantic.Field("", alias="theNote")


@dataclasses.dataclass
class DataOrder:
    id: int
    note: str = ""

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("id is negative")


class StructOrder(msgspec.Struct, rename="camel"):
    id: int
    ordered_at: dt.datetime
    items: list[str] = []


ORDERS = [
    PydanticOrder(id=1, at=NOW, items=[PydanticItem(sku="x")], theNote="n"),
    DataOrder(1, "n"),
    StructOrder(1, NOW, ["x"]),
]


def _through(function: Callable[..., Any], model: type, *args: Any, **kwargs: Any) -> Any:
    arguments = Arguments(function, model)
    stored = arguments.bind(args, kwargs)
    text = codec.encode(stored, limit=1 << 20, what="argument")
    positional, by_name = arguments.call(codec.decode(text), CONTEXT)
    return function(*positional, **by_name)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_a_model_as_the_only_parameter_arrives_as_an_instance(order: Any) -> None:
    model = type(order)

    def by_position(order, /):
        return order

    def with_context(ctx: JobContext, order):
        return order

    for function in (by_position, with_context):
        function.__annotations__["order"] = model
        assert _through(function, model, order) == order
    assert _through(with_context, model, order=order) == order


def test_a_model_can_be_given_as_a_mapping_or_by_its_fields() -> None:
    def handle(order: DataOrder):
        return order

    expected = DataOrder(1, "n")
    assert _through(handle, DataOrder, {"id": 1, "note": "n"}) == expected
    assert _through(handle, DataOrder, order={"id": 1, "note": "n"}) == expected
    assert _through(handle, DataOrder, id=1, note="n") == expected
    with pytest.raises(InvalidArguments, match="or its fields by name"):
        _through(handle, DataOrder, 1, "n")


def test_a_model_beside_plain_parameters_checks_and_fills_them() -> None:
    class Model(pydantic.BaseModel):
        a: int
        b: str = "filled"

    def handle(a, b, ctx: JobContext):
        return a, b, ctx

    with pytest.raises(InvalidArguments):
        _through(handle, Model, "x", "y")
    assert _through(handle, Model, "5", "y") == (5, "y", CONTEXT)


@pytest.mark.parametrize(
    ("model", "bad"),
    [(PydanticOrder, {"id": "x"}), (DataOrder, {"id": -1}), (DataOrder, {"no": 1}),
     (StructOrder, {"id": "x"})],
)  # fmt: skip
def test_a_model_refuses_in_its_own_words(model: type, bad: dict[str, Any]) -> None:
    """msgspec's errors are no ValueErrors, and came through raw."""

    def handle(order):
        return order

    handle.__annotations__["order"] = model
    with pytest.raises(InvalidArguments, match="handle: arguments refused"):
        Arguments(handle, model).bind((), bad)
    with pytest.raises(InvalidArguments, match="handle: arguments refused"):
        Arguments(handle, model).call(bad)


@pytest.mark.parametrize("model", [int, "Order", 5, object()])
def test_only_models_can_validate(model: Any) -> None:
    with pytest.raises(InvalidOption, match="validate="):
        Arguments(plain, model)
