"""How a call's arguments become a stored object, and that object a call again."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import Parameter
from typing import Any

from ..errors import InvalidArguments, InvalidOption, shown
from .context import JobContext

# Under this key lie values of a `*args` parameter; no Python parameter can have the name.
REST = "*"

_NAME = re.compile(r"[\w.]+")
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)


class Arguments:
    """What one task takes: its parameters without the context, and its model if it has one.

    Attributes:
        context_name: The parameter that wants the `JobContext`, or None.
        names: The parameters a caller gives.
        defaults: What those have that need not be given.
    """

    def __init__(self, function: Callable[..., Any], model: type | None = None) -> None:
        self._function = function
        self.model = _checked_model(model)
        hints = _hints(function)
        self._full = inspect.signature(function)
        parameters = self._full.parameters.values()
        self.context_name = next((p.name for p in parameters if _is_context(p, hints)), None)
        kept = [p for p in parameters if p.name != self.context_name]
        self._signature = inspect.Signature(kept)
        self.names = tuple(p.name for p in kept)
        self.defaults = {p.name: p.default for p in kept if p.default is not Parameter.empty}
        self._open = any(p.kind is Parameter.VAR_KEYWORD for p in kept)
        self._simple = all(p.kind not in _POSITIONAL for p in kept) and not self._open
        self._known = frozenset(self.names)
        self._required = frozenset(p.name for p in kept if p.default is Parameter.empty)
        self._whole = _parameter_of_model(kept, hints, self.model)

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """Name every argument of a call, as it is stored.

        Raises:
            InvalidArguments: The call does not fit the signature or the model.
        """
        if self.model is not None and self._whole is None:
            return dump(self.validate(self._named(args, kwargs)))
        if self._whole is not None:
            return dump(self._as_model(args, kwargs))
        return self._named(args, kwargs)

    def takes(self, name: str) -> bool:
        """Tell whether an argument of that name may be stored."""
        return self._open or self.model is not None or name in self.names

    def call(
        self, stored: Mapping[str, Any], context: JobContext | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Turn a stored object into positional and named arguments, the context among them.

        Raises:
            InvalidArguments: The object does not fit: another release of the code stored it.
        """
        if self._whole is not None:
            stored = {self._whole: self.validate(stored)}
        elif self.model is not None:
            stored = fields_of(self.validate(stored))
        if self._simple:
            self._check(stored)
            named = dict(stored)
            if self.context_name is not None:
                named[self.context_name] = context
            return (), named
        return self._positional(stored, context)

    def validate(self, values: Mapping[str, Any]) -> Any:
        """Make an instance of the task's model.

        Raises:
            InvalidArguments: With the model's own words.
        """
        if self.model is None:
            raise InvalidArguments("The task has no model to validate with.")
        try:
            return _build(self.model, values)
        except (TypeError, ValueError) as error:
            raise InvalidArguments(f"{self._name}: arguments refused: {error}") from error

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    def _as_model(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
        given = [*args, *kwargs.values()]
        whole = len(given) == 1 and (not kwargs or self._whole in kwargs)
        if whole and self.model is not None and isinstance(given[0], self.model):
            return given[0]
        if whole and isinstance(given[0], Mapping):
            return self.validate(given[0])
        if args:
            raise InvalidArguments(f"{self._name} takes one {self.model} or its fields by name.")
        return self.validate(kwargs)

    def _named(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
        if self._simple and not args:
            self._check(kwargs)
            return dict(kwargs)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self._name}{self._signature}: {error}.") from None
        named: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            match self._signature.parameters[name].kind:
                case Parameter.VAR_KEYWORD:
                    self._refuse_taken(value)
                    named |= value
                case Parameter.VAR_POSITIONAL:
                    named[REST] = list(value)
                case _:
                    named[name] = value
        return named

    def _refuse_taken(self, given: Mapping[str, object]) -> None:
        """Refuse keys of `**kwargs` under which something else is stored, or the context comes."""
        for name in given:
            if name == REST or name in self._full.parameters:
                raise InvalidArguments(
                    f"{self._name}{self._full}: {name!r} cannot be given by name, because it is "
                    "stored under the name of another parameter. Rename one of them."
                )

    def _check(self, given: Mapping[str, object]) -> None:
        if self._required <= given.keys() <= self._known:
            return
        missing = sorted(self._required - given.keys())
        extra = [name for name in given if name not in self.names]
        said = [f"missing {', '.join(map(repr, missing))}"] if missing else []
        for name in extra:
            near = get_close_matches(name, self.names, n=1)
            said.append(f"unexpected {name!r}" + (f" (nearest: {near[0]!r})" if near else ""))
        raise InvalidArguments(f"{self._name}{self._signature}: {'; '.join(said)}.")

    def _positional(
        self, stored: Mapping[str, Any], context: JobContext | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        left = dict(stored)
        rest = left.pop(REST, [])
        if not isinstance(rest, list) or self.context_name in left:
            raise InvalidArguments(f"{self._name}{self._full} does not take what is stored.")
        if self.context_name is not None:
            left[self.context_name] = context
        before: list[Any] = []
        for parameter in self._full.parameters.values():
            if parameter.kind is Parameter.POSITIONAL_ONLY or (
                rest and parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
            ):
                before.append(left.pop(parameter.name, parameter.default))
        try:
            if Parameter.empty in before:
                raise TypeError("an argument is missing")
            self._full.bind(*before, *rest, **left)
        except TypeError as error:
            raise InvalidArguments(f"{self._name}{self._full}: {error}.") from None
        return (*before, *rest), left


def dump(instance: Any) -> dict[str, Any]:
    """Write a model's instance as plain data."""
    if hasattr(instance, "model_dump"):
        # By alias, as the model reads it again.
        plain: dict[str, Any] = instance.model_dump(mode="json", by_alias=True)
        return plain
    if hasattr(type(instance), "__struct_fields__"):
        import msgspec

        built: dict[str, Any] = msgspec.to_builtins(instance)
        return built
    return dataclasses.asdict(instance)


def fields_of(instance: Any) -> dict[str, Any]:
    """Take a model's instance apart into its fields, one level deep, values as validated."""
    if hasattr(type(instance), "__struct_fields__"):
        return {name: getattr(instance, name) for name in type(instance).__struct_fields__}
    if dataclasses.is_dataclass(instance):
        return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}
    return dict(instance)


def _build(model: type, values: Mapping[str, Any]) -> Any:
    if hasattr(model, "__struct_fields__"):
        import msgspec

        try:
            return msgspec.convert(dict(values), model)
        except msgspec.ValidationError as error:  # no ValueError, as everybody else's is
            raise ValueError(str(error)) from error
    return model(**values)


def _checked_model(model: type | None) -> type | None:
    kinds = ("model_validate", "__struct_fields__", "__dataclass_fields__")
    if model is None or (isinstance(model, type) and any(hasattr(model, k) for k in kinds)):
        return model
    raise InvalidOption(
        f"validate= takes a pydantic model, a dataclass or a msgspec Struct, not {shown(model)}."
    )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        # Names imported for type checkers only cannot be resolved; the texts are compared instead.
        return dict(getattr(function, "__annotations__", {}))


def _is_context(parameter: Parameter, hints: Mapping[str, Any]) -> bool:
    hint = hints.get(parameter.name)
    if isinstance(hint, str):
        return any(word.rsplit(".", 1)[-1] == "JobContext" for word in _NAME.findall(hint))
    return hint is JobContext or JobContext in typing.get_args(hint)


def _parameter_of_model(
    parameters: list[Parameter], hints: Mapping[str, Any], model: type | None
) -> str | None:
    if model is None or len(parameters) != 1:
        return None
    hint = hints.get(parameters[0].name)
    named = isinstance(hint, str) and hint.rsplit(".", 1)[-1] == model.__name__
    return parameters[0].name if hint is model or named else None
