"""Which jobs are the same, and what becomes of one that there is already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from ..errors import InvalidArguments, InvalidOption, shown
from .names import checked_name
from .outcome import seconds_of

Key: TypeAlias = str | Callable[..., str]
While: TypeAlias = Iterable[Literal["scheduled", "queued", "processing"]]
Conflict: TypeAlias = Literal["skip", "replace", "raise"]
Merger: TypeAlias = Literal["append", "sum"] | Callable[[Any, Any], Any]
Merge: TypeAlias = Mapping[str, Merger]
Outcome: TypeAlias = Literal["enqueued", "existing", "replaced"]

STATES: Final = ("scheduled", "queued", "processing")
CONFLICTS: Final = ("skip", "replace", "raise")
MERGES: Final = ("append", "sum")
LONGEST_KEY: Final = 255

UNIQUE_OPTIONS: Final = (
    "unique", "dedup_key", "unique_while", "unique_for", "on_conflict", "merge",
)  # fmt: skip


class Enqueued(list[str]):
    """The ids of the jobs that stand for those that were asked for, in their order.

    Attributes:
        outcomes: What became of each: `enqueued`; `existing`, with the id of the job that has its
            key; `replaced`, with the id of the job that does its work now.
    """

    __slots__ = ("_outcomes",)

    def __init__(self, ids: Iterable[str] = (), outcomes: Sequence[Outcome] | None = None) -> None:
        super().__init__(ids)
        self._outcomes = outcomes

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each, in the same order."""
        return ["enqueued"] * len(self) if self._outcomes is None else list(self._outcomes)


@dataclass(frozen=True, slots=True)
class UniqueOptions:
    """What a task or one enqueue says about it; None leaves it to the other, or the default.

    Attributes:
        key: A key, a function of the arguments that makes one, True for the arguments themselves,
            and False for no key at all.
        states: In which a job holds its key.
        seconds: How long after its enqueue it holds it in any case.
        conflict: What becomes of another job of the key.
        merge: How arguments of a replaced job and of its replacement become one, by name; empty is
            not at all.
    """

    key: Key | bool | None = None
    states: tuple[str, ...] | None = None
    seconds: float | None = None
    conflict: str | None = None
    merge: Mapping[str, Merger] | None = None

    def over(self, base: UniqueOptions | None) -> UniqueOptions:
        """Lay these options over others: what is given here wins."""
        if base is None:
            return self
        given = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        return replace(base, **given)

    def rule(self) -> Unique | None:
        """Make the rule of a job; None for a job without a key.

        Raises:
            InvalidOption: They contradict one another.
        """
        conflict = self.conflict or "skip"
        if self.key is False:
            return None
        if self.key is None:
            raise InvalidOption(
                f"{self._first()} says something about a job's key, and this job has none. "
                "Give unique=True or dedup_key=... as well."
            )
        if self.merge and conflict != "replace":
            raise InvalidOption(
                f"merge is for a job that replaces another, and on_conflict is {conflict!r}. "
                "Give on_conflict='replace', or leave merge out."
            )
        key = None if self.key is True else self.key
        merge = tuple((self.merge or {}).items())
        return Unique(key, self.states or STATES, self.seconds, conflict, merge)

    def _first(self) -> str:
        named = {
            "unique_while": self.states,
            "unique_for": self.seconds,
            "on_conflict": self.conflict,
            "merge": self.merge,
        }
        return next(name for name, value in named.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Unique:
    """The rule of one job; its options, settled.

    Attributes:
        key: Its key, or what makes it; None is the arguments themselves.
        states: In which another job of the key is in the way.
        seconds: How long the key is held in any case; None is not at all.
        conflict: `skip`, `replace` or `raise`.
        merge: By name, how an argument is merged on `replace`.
        limit: Most bytes of merged arguments.
    """

    key: Key | None
    states: tuple[str, ...]
    seconds: float | None
    conflict: str
    merge: tuple[tuple[str, Merger], ...] = ()
    limit: int = 1_048_576

    def of(self, arguments: Mapping[str, Any], task: str) -> Unique:
        """Make the rule of a job from that of its task.

        Args:
            arguments: What it is called with, defaults among them.
            task: For messages.

        Raises:
            InvalidOption: The function that makes keys failed, or made something else.
            InvalidArguments: An argument is not what it is merged as.
        """
        for name, how in self.merge:
            _check_merged(name, how, arguments.get(name), task)
        if not callable(self.key):
            return self
        try:
            made = self.key(**arguments)
        except Exception as error:
            raise InvalidOption(f"dedup_key of {task} failed: {shown(error)}.") from error
        key = checked_key(made)
        # Written out: `replace` takes four times as long, for each job of a bulk.
        return Unique(key, self.states, self.seconds, self.conflict, self.merge, self.limit)


def unique_options(given: Mapping[str, Any]) -> UniqueOptions | None:
    """Check what is said about uniqueness; None if nothing is.

    Raises:
        InvalidOption: A value cannot be, or two contradict each other.
    """
    values = {name: v for name in UNIQUE_OPTIONS if (v := given.get(name)) is not None}
    if not values:
        return None
    value = values.get
    return UniqueOptions(
        key=_key(value("unique"), value("dedup_key"), values),
        states=None if "unique_while" not in values else _states(values["unique_while"]),
        seconds=None if "unique_for" not in values else seconds_for(values["unique_for"]),
        conflict=None if "on_conflict" not in values else _conflict(values["on_conflict"]),
        merge=_merge(values.get("merge"), values.get("on_conflict")),
    )


def seconds_for(value: float | timedelta) -> float:
    """Read `unique_for`: more than 0 seconds."""
    seconds = seconds_of(value, "unique_for")
    if not seconds:
        raise InvalidOption("unique_for must be more than 0 seconds. Leave it out for none.")
    return seconds


def checked_key(value: object) -> str:
    """A key: text of 1 to 255 characters that PostgreSQL can store."""
    return checked_name(value, "dedup_key", LONGEST_KEY)


def _key(unique: object, key: Key | None, given: Mapping[str, Any]) -> Key | bool | None:
    if unique is not None and not isinstance(unique, bool):
        raise InvalidOption(
            f"unique is True or False, not {shown(unique)}. A key of your own goes in dedup_key."
        )
    if unique is not None and key is not None:
        raise InvalidOption(
            f"unique={unique} and dedup_key={shown(key)} say two things about one key. "
            "Give one of them."
        )
    if unique is False and len(given) > 1:
        (other,) = [name for name in given if name != "unique"][:1]
        raise InvalidOption(f"unique=False is no key at all; leave {other} out.")
    if key is None:
        return None if unique is None else bool(unique)
    return key if callable(key) else checked_key(key)


def _states(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidOption(f"unique_while is a set of states, not {shown(given)}.")
    states = tuple(given)
    for state in states:
        if state not in STATES:
            raise InvalidOption(
                f"unique_while knows the states {', '.join(STATES)}, not {shown(state)}."
            )
    if not states:
        raise InvalidOption("unique_while names no state, so nothing would hold the key.")
    return tuple(state for state in STATES if state in states)


def _conflict(given: object) -> str:
    if given not in CONFLICTS:
        raise InvalidOption(
            f"on_conflict must be 'skip', 'replace' or 'raise', not {shown(given)}."
        )
    return str(given)


def _merge(given: object, conflict: object) -> dict[str, Merger] | None:
    if given is None:
        # Who does not replace does not merge either, whatever the task says.
        return None if conflict in {None, "replace"} else {}
    if not isinstance(given, Mapping) or not given:
        raise InvalidOption(
            f"merge says how by the name of an argument, as in {{'ids': 'append'}}, "
            f"not {shown(given)}."
        )
    for name, how in given.items():
        if not isinstance(name, str) or not (callable(how) or how in MERGES):
            raise InvalidOption(
                f"merge takes 'append', 'sum' or a function of (older, newer) for an argument, "
                f"not {shown(how)} for {shown(name)}."
            )
    return dict(given)


def _check_merged(name: str, how: Merger, value: object, task: str) -> None:
    if value is None or callable(how):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (isinstance(value, list | tuple) if how == "append" else number):
        wanted = "a list" if how == "append" else "a number"
        raise InvalidArguments(
            f"{task} merges {name} ({how}), so it must be {wanted}: {shown(value)}."
        )
