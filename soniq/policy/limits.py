"""What the options of a task's limits mean together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidOption, shown
from ..job.limits import CircuitBreaker, Key, Limits, Pace, checked_weight
from ..job.rate import checked_burst, checked_rate

# Without a burst that is said: what comes in this time. A worker looks every few milliseconds, and
# could not keep to a thousand a second if it found one each time.
BURST_SECONDS = 0.1

KEYS = ("concurrency_key", "ordered_by", "rate_key", "fair_by")


def limits_of(given: Mapping[str, Any]) -> Limits | None:
    """Read what a task declares of limits; None is nothing.

    Raises:
        InvalidOption: A value cannot be, or one does not go with another.
    """
    value = given.get
    key = _the_key({name: value(name) for name in KEYS})
    limits = Limits(
        key=key,
        pace=pace_of(value("rate_limit"), value("rate_burst")),
        rate_by_key=value("rate_key") is not None,
        breaker=_breaker(value("breaker"), key),
        weights=_weights(value("fair_weights"), value("fair_by")),
        **_concurrency(given),
    )
    if limits.rate_by_key and limits.pace is None:
        raise InvalidOption("rate_key says of what rate_limit is; give rate_limit too.")
    return None if limits == Limits() else limits


def pace_of(text: object, burst: object = None) -> Pace | None:
    """Read a rate such as `100/minute`, `10/s` or `5/10s`, and how many may start at once.

    Raises:
        InvalidOption: It is none.
    """
    if text is None:
        if burst is not None:
            raise InvalidOption("rate_burst goes with rate_limit; give that too.")
        return None
    rate = checked_rate(text)
    seconds = rate.seconds / rate.count
    if burst is None:
        return Pace(seconds, burst_of(seconds))
    return Pace(seconds, checked_burst(checked_number(burst, "rate_burst"), rate))


def burst_of(pace_seconds: float) -> int:
    """Choose how many jobs may start at once where nobody said it."""
    return max(1, math.floor(BURST_SECONDS / pace_seconds + 1e-9))


def checked_number(value: object, what: str) -> int:
    """A whole number from 1 to a million."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise InvalidOption(f"{what} must be a whole number from 1 to 1000000, not {shown(value)}.")
    return value


def _concurrency(given: Mapping[str, Any]) -> dict[str, Any]:
    value = given.get
    number = value("concurrency")
    if number is not None:
        checked_number(number, "concurrency")
    by_key, ordered = value("concurrency_key") is not None, value("ordered_by") is not None
    if by_key and number is None:
        raise InvalidOption("concurrency_key says of what concurrency is; give concurrency too.")
    if by_key and ordered:
        raise InvalidOption(
            "Jobs in order run one at a time for each key; leave concurrency_key out. "
            "concurrency beside ordered_by is of the whole task."
        )
    aside = _steps_aside(value("ordered_retry"), ordered=ordered)
    return {
        "concurrency": None if by_key else number,
        "key_concurrency": number if by_key else 1 if aside else None,
        "ordered": ordered and not aside,
    }


ORDERED_RETRIES = ("hold", "step_aside")


def _steps_aside(said: object, *, ordered: bool) -> bool:
    if said is not None and said not in ORDERED_RETRIES:
        raise InvalidOption(f"ordered_retry must be 'hold' or 'step_aside', not {shown(said)}.")
    if said is not None and not ordered:
        raise InvalidOption("ordered_retry goes with ordered_by; give that too.")
    return said == "step_aside"


def _the_key(given: Mapping[str, Any]) -> Key | None:
    """Find the one key of a task: a job stands in one line, and no more."""
    said = {name: key for name, key in given.items() if key is not None}
    for name, key in said.items():
        if not callable(key) and not (isinstance(key, str) and key):
            raise InvalidOption(
                f"{name} is the name of a parameter, or a function of the arguments, "
                f"not {shown(key)}."
            )
    keys = list(said.values())
    if any(key != keys[0] for key in keys):
        names = ", ".join(said)
        raise InvalidOption(f"A task has one key, and {names} are not the same.")
    return keys[0] if keys else None


def _breaker(given: object, key: Key | None) -> CircuitBreaker | None:
    if given is None:
        return None
    if not isinstance(given, CircuitBreaker):
        raise InvalidOption(f"breaker is a CircuitBreaker(failures=5, ...), not {shown(given)}.")
    if given.by_key and key is None:
        raise InvalidOption(
            "A CircuitBreaker by key needs a key: give fair_by, or another option that names it."
        )
    return given


def _weights(given: Any, fair_by: object) -> Any:
    if given is None:
        return None
    if fair_by is None:
        raise InvalidOption("fair_weights goes with fair_by; give that too.")
    if callable(given):
        return given
    if not isinstance(given, Mapping):
        raise InvalidOption(
            f"fair_weights is a dict by key, or a function of it, not {shown(given)}."
        )
    return {str(key): checked_weight(weight, key) for key, weight in given.items()}
