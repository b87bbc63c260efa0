"""Everything JSON can hold and PostgreSQL can store, for properties."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text
)
values = st.recursive(
    _leaf, lambda part: st.lists(part) | st.dictionaries(_text, part), max_leaves=30
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down: 1 is not 1.0 and not True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
