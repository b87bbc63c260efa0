"""What keeps a worker's statements from plans that are wrong by the time they run.

Statistics say nothing of a queue: it was empty when they were taken and is full now, or the other
way about. Each statement of a worker has an index to follow, so its sessions take what could be
preferred to that from the planner: to read a table whole, and to collect rows before they are
sorted. Of a million jobs that came after the last ANALYZE, each claim read all but a few.
"""

from __future__ import annotations

from typing import LiteralString

from ..steps import Query

# A plan is kept for as long as the session is, and one made while the table was empty may join it
# the wrong way round. Nothing tells but the time its statement takes; to plan anew costs a
# millisecond or two.
SLOW_SECONDS = 0.02
REST_SECONDS = 1.0
DISCARD: Query[None] = Query("DISCARD PLANS")


def _off(scope: LiteralString) -> LiteralString:
    # JIT would find the price that forbids a plan, and compile for it.
    names: tuple[LiteralString, ...] = ("enable_seqscan", "enable_bitmapscan", "jit")
    return ", ".join(f"set_config('{name}', 'off', {scope})" for name in names)


# A claim counts what runs after it has a lock, so its transaction must be read committed, and a
# database or a role may have another default.
SESSION: Query[None] = Query(
    f"SELECT {_off('false')}, set_config('default_transaction_isolation', 'read committed', false)"
)
# The same for the transaction that these begin. The first lasts no longer either, though it does
# not say LOCAL: of that the server would warn outside of BEGIN and COMMIT.
LOCAL: tuple[Query[None], ...] = (
    Query("SET transaction_isolation = 'read committed'"),
    Query(f"SELECT {_off('true')}"),
)


class Plans:
    """Whether the plans that a session has kept should be made anew.

    Attributes:
        stale: They should, before the next statement.
    """

    __slots__ = ("_next", "stale")

    def __init__(self) -> None:
        self._next = 0.0
        self.stale = False

    def took(self, seconds: float, now: float) -> None:
        """Learn from an operation; `now` is of the same clock as `seconds`."""
        if seconds > SLOW_SECONDS and now >= self._next:
            self._next = now + REST_SECONDS
            self.stale = True
