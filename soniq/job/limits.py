"""Limits of a task: how many of its jobs run, how often they start, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import InvalidArguments, InvalidOption, shown
from .names import is_unicode

# A parameter's name, or what is called with the arguments by name.
Key: TypeAlias = str | Callable[..., object]
# Turns of single keys, each as text: a dict, or what is called with it.
Weights: TypeAlias = Mapping[str, float] | Callable[[str], float]

LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Pace:
    """How often jobs may start: one in so many seconds, and so many at once after a rest."""

    seconds: float
    burst: int


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Stop to run what fails and fails, and try it again now and then.

    Attributes:
        failures: So many failed attempts within the window close the gate.
        window: Seconds.
        pause: Seconds until one job is tried; if it fails, the pause begins anew.
        by_key: Of each key by itself; the task needs one.
    """

    failures: int = 5
    window: float = 60.0
    pause: float = 30.0
    by_key: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.failures, int) and not isinstance(self.failures, bool)
        if not whole or not 1 <= self.failures <= 1000:
            raise InvalidOption(
                f"failures of a CircuitBreaker is a whole number from 1 to 1000, "
                f"not {shown(self.failures)}."
            )
        for name, seconds in (("window", self.window), ("pause", self.pause)):
            number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not number or not 0 < seconds <= 86400:
                raise InvalidOption(
                    f"{name} of a CircuitBreaker is seconds, more than 0 and at most a day, "
                    f"not {shown(seconds)}."
                )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a task declares; the database holds what was declared last.

    Attributes:
        key: What makes the key of a job; None is none.
        concurrency: Jobs of the task that run at once, over all workers.
        key_concurrency: The same of each key.
        ordered: A key's jobs run in the order of their enqueue; a retry holds the others.
        pace: How often jobs start.
        rate_by_key: That is of each key.
        breaker: When failures stop the task, or a key.
        weights: Turns of single keys, where that is not one.
    """

    key: Key | None = None
    concurrency: int | None = None
    key_concurrency: int | None = None
    ordered: bool = False
    pace: Pace | None = None
    rate_by_key: bool = False
    breaker: CircuitBreaker | None = None
    weights: Weights | None = None

    def gate(self, arguments: Mapping[str, Any]) -> str:
        """Name the gate of a job with these arguments.

        Raises:
            InvalidArguments: They make no key.
        """
        if self.key is None:
            return "t"
        return ("o" if self.ordered else "k") + key_of(self.key, arguments)

    def weight(self, gate: str) -> float:
        """Say how many turns a gate gets where others get one.

        Raises:
            InvalidOption: A function's answer is no weight.
        """
        if self.weights is None:
            return 1.0
        if isinstance(self.weights, Mapping):
            return self.weights.get(gate[1:], 1.0)
        return checked_weight(self.weights(gate[1:]), gate[1:])


def checked_weight(weight: object, key: object) -> float:
    """A number above 0, at most 1000.

    Raises:
        InvalidOption: It is none.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 < weight <= 1000:  # type: ignore[operator]
        raise InvalidOption(
            f"A weight is a number above 0, at most 1000, not {shown(weight)} "
            f"as that of {shown(key)}."
        )
    return float(weight)  # type: ignore[arg-type]


def key_of(key: Key, arguments: Mapping[str, Any]) -> str:
    """Write a job's key; None is a key as well, of all jobs without one.

    Raises:
        InvalidArguments: There is no such argument, or it makes no key.
    """
    if isinstance(key, str):
        if key not in arguments:
            raise InvalidArguments(f"A limit goes by {key!r}, and the job has no such argument.")
        value = arguments[key]
    else:
        try:
            value = key(**arguments)
        except Exception as error:
            raise InvalidArguments(
                f"The key of a limit could not be made of the arguments: {shown(error)}."
            ) from error
    text = "" if value is None else str(value)
    if len(text) > LONGEST_KEY or "\0" in text or not is_unicode(text):
        raise InvalidArguments(
            f"The key of a limit is text of at most {LONGEST_KEY} characters that PostgreSQL can "
            f"store, not {text[:50]!r}."
        )
    return text
