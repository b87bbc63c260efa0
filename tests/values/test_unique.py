"""What may be said about unique jobs, and what contradicts itself."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soniq.errors import InvalidArguments, InvalidOption
from soniq.job.options import enqueue_options
from soniq.job.record import Placement
from soniq.job.unique import STATES, Enqueued, Unique, UniqueOptions, unique_options

BAD: list[tuple[dict[str, Any], str]] = [
    ({"unique": "yes"}, "unique is True or False, not 'yes'"),
    ({"unique": 1}, "unique is True or False, not 1"),
    ({"unique": True, "dedup_key": "k"}, "two things about one key"),
    ({"unique": False, "dedup_key": "k"}, "two things about one key"),
    ({"unique": False, "on_conflict": "skip"}, "no key at all; leave on_conflict out"),
    ({"dedup_key": ""}, "dedup_key must be text of 1 to 255"),
    ({"dedup_key": "x" * 256}, "dedup_key must be text of 1 to 255"),
    ({"dedup_key": 7}, "dedup_key must be text of 1 to 255"),
    ({"dedup_key": "a\0b"}, "PostgreSQL cannot store"),
    ({"unique": True, "unique_while": []}, "names no state"),
    ({"unique": True, "unique_while": "queued"}, "is a set of states"),
    ({"unique": True, "unique_while": 3}, "is a set of states"),
    ({"unique": True, "unique_while": ["queued", "done"]}, "not 'done'"),
    ({"unique": True, "unique_for": -1}, "unique_for must be between 0"),
    ({"unique": True, "unique_for": 0}, "more than 0 seconds"),
    ({"unique": True, "unique_for": "1h"}, "unique_for takes seconds"),
    ({"unique": True, "on_conflict": "merge"}, "'skip', 'replace' or 'raise'"),
    ({"unique": True, "on_conflict": ["skip"]}, "'skip', 'replace' or 'raise'"),
    ({"unique": True, "on_conflict": "replace", "merge": "append"}, "by the name of an argument"),
    ({"unique": True, "on_conflict": "replace", "merge": {}}, "by the name of an argument"),
    ({"unique": True, "on_conflict": "replace", "merge": {"a": "max"}}, "not 'max' for 'a'"),
    ({"unique": True, "on_conflict": "replace", "merge": {"a": []}}, "for 'a'"),
    ({"unique": True, "on_conflict": "replace", "merge": {1: "sum"}}, "for 1"),
]

INCOMPLETE: list[tuple[dict[str, Any], str]] = [
    ({"unique_while": ["queued"]}, "unique_while says something about a job's key"),
    ({"unique_for": 1}, "unique_for says something"),
    ({"on_conflict": "skip"}, "on_conflict says something"),
    ({"merge": {"a": "sum"}}, "merge says something"),
    ({"unique": True, "merge": {"a": "sum"}}, "on_conflict is 'skip'"),
    ({"unique": True, "merge": {"a": "sum"}, "on_conflict": "raise"}, "on_conflict is 'raise'"),
]


@pytest.mark.parametrize(("options", "says"), BAD)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        enqueue_options(options)


@pytest.mark.parametrize(("options", "says"), INCOMPLETE)
def test_what_means_nothing_by_itself_is_refused(options: dict[str, Any], says: str) -> None:
    said = unique_options(options)
    assert said is not None
    with pytest.raises(InvalidOption, match=says):
        said.rule()


def test_nothing_said_is_no_rule() -> None:
    assert unique_options({}) is None
    assert unique_options({"unique": None, "merge": None}) is None
    assert UniqueOptions(key=False).rule() is None


def test_what_is_said_becomes_a_rule_and_the_rest_is_as_usual() -> None:
    def rule(**options: Any) -> Unique | None:
        said = unique_options(options)
        return None if said is None else said.rule()

    assert rule(unique=True) == Unique(None, STATES, None, "skip")
    whole = rule(
        dedup_key="k",
        unique_while={"queued", "scheduled"},
        unique_for=timedelta(minutes=1),
        on_conflict="replace",
        merge={"ids": "append"},
    )
    assert whole == Unique("k", ("scheduled", "queued"), 60.0, "replace", (("ids", "append"),))


def test_an_enqueue_says_otherwise_than_its_task() -> None:
    task = UniqueOptions(True, ("queued",), 5.0, "replace", {"n": "sum"})
    assert UniqueOptions(key="k").over(task) == UniqueOptions(
        "k", ("queued",), 5.0, "replace", {"n": "sum"}
    )
    assert UniqueOptions(key=False).over(task).rule() is None
    refusing = unique_options({"on_conflict": "raise"})
    assert refusing is not None
    assert refusing.over(task).rule() == Unique(None, ("queued",), 5.0, "raise")
    assert UniqueOptions(key=True).over(None) == UniqueOptions(key=True)


_some = st.builds(
    UniqueOptions,
    st.sampled_from([None, True, False, "k"]),
    st.none() | st.just(("queued",)),
    st.none() | st.floats(1, 9),
    st.none() | st.sampled_from(["skip", "replace", "raise"]),
    st.none() | st.just({"n": "sum"}),
)


@given(_some, _some, _some)
def test_laying_over_is_associative(a: Any, b: Any, c: Any) -> None:
    assert a.over(b).over(c) == a.over(b.over(c))


def test_a_function_makes_a_key_of_the_arguments() -> None:
    rule = Unique(lambda user_id, **_: f"welcome:{user_id}", STATES, None, "skip")
    assert rule.of({"user_id": 7, "lang": "en"}, "t").key == "welcome:7"
    bad: list[tuple[Any, str]] = [
        (lambda user: user, "dedup_key of t failed: TypeError"),
        (lambda user_id, **_: user_id, "must be text of 1 to 255 characters, not 7"),
        (lambda **arguments: arguments["nobody"], "dedup_key of t failed: KeyError"),
        (lambda **_: "x" * 256, "1 to 255"),
    ]
    for key, says in bad:
        with pytest.raises(InvalidOption, match=says):
            Unique(key, STATES, None, "skip").of({"user_id": 7, "lang": "en"}, "t")


@pytest.mark.parametrize(
    ("how", "value", "fits"),
    [
        ("append", [1], True),
        ("append", (1,), True),
        ("append", None, True),
        ("append", "text", False),
        ("append", {"a": 1}, False),
        ("sum", 1, True),
        ("sum", 1.5, True),
        ("sum", True, False),
        ("sum", "1", False),
        (max, "anything", True),
    ],
)
def test_what_is_merged_has_the_type_for_it(how: Any, value: Any, fits: bool) -> None:
    rule = Unique(None, STATES, None, "replace", (("a", how),))
    if fits:
        assert rule.of({"a": value}, "t") is rule
    else:
        with pytest.raises(InvalidArguments, match=f"t merges a .{how}., so it must be a"):
            rule.of({"a": value}, "t")


def test_a_rule_and_a_placement_keep_all_but_what_is_of_one_job() -> None:
    """Both are written out, so that a field that is added could be forgotten."""
    rule = Unique(lambda **_: "k", STATES[:1], 5.0, "replace", (("a", "sum"),), 7)
    due = datetime(2025, 1, 1, tzinfo=UTC)
    placement = Placement("t", "q", 1, due, 2, 3.0, ("x",), "{}", rule, "g")
    for value in (rule, placement):
        assert all(getattr(value, f.name) != f.default for f in fields(value))
    assert rule.of({"a": 1}, "t") == replace(rule, key="k")
    assert placement.of_one(None, "h") == replace(placement, unique=None, gate="h")


def test_a_job_with_a_key_is_not_plain() -> None:
    plain = Placement("t", "q", 100, None, 4)
    assert plain.plain
    assert not Placement("t", "q", 100, None, 4, unique=Unique(None, STATES, None, "skip")).plain


def test_the_answer_of_a_bulk_is_a_list_of_ids_with_outcomes() -> None:
    assert Enqueued(["a", "b"]) == ["a", "b"]
    assert Enqueued(["a", "b"]).outcomes == ["enqueued", "enqueued"]
    assert Enqueued(["a"], ["existing"]).outcomes == ["existing"]
