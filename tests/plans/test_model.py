"""A job's life against a model, step by step, whatever comes after or between whatever.

Two clients, each with a transaction open or not, and three workers do all that `store/` can do,
stale attempts included. After every step the three tables are compared with `model.py`, as
committed and as each open transaction sees them.

`pytest --hypothesis-profile=long tests/plans/test_model.py` looks for minutes instead of seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .desk import Desk
from .model import Model, Row
from .operations import (
    BY_ITSELF,
    ENDINGS,
    KNOWN,
    MAKERS,
    QUEUES,
    UNIT_SECONDS,
    WISHES,
    WORKERS,
    Draw,
    Operation,
    World,
    draws,
    operation,
)

LONG = settings.get_current_profile_name() == "long"

_COLUMNS = """CAST(id AS text), task, queue, priority, max_attempts, attempt,
    CAST(worker_id AS text), started_at IS NOT NULL, coalesce(attempts, '[]')"""
STORED = f"""
    SELECT {_COLUMNS}, state, snoozes, cancel_requested,
        CAST(ceil(extract(epoch FROM scheduled_at - clock_timestamp()) / {UNIT_SECONDS}) AS int),
        NULL, NULL, NULL FROM {{soniq}}.jobs
    UNION ALL
    SELECT {_COLUMNS}, state, 0, false, NULL, CAST(result AS text), reason, NULL
    FROM {{soniq}}.history
    UNION ALL
    SELECT {_COLUMNS}, 'dead_letter', 0, false, NULL, NULL, reason, CAST(replayed_as AS text)
    FROM {{soniq}}.dead_letters"""

CLIENTS = ("one", "two")
clients = st.sampled_from(CLIENTS)


class Life(RuleBasedStateMachine):
    """The database and the model, side by side."""

    def __init__(self, keeper: Desk, desks: dict[str, Desk], threads: ThreadPoolExecutor) -> None:
        super().__init__()
        self.keeper, self.desks, self.threads = keeper, desks, threads
        self.model = Model()
        keeper.watch_since_an_hour()
        keeper.sql("DELETE FROM {soniq}.queues")
        self.forget()
        for worker in WORKERS:
            self.silence(worker, silent=False)

    def forget(self) -> None:
        """Begin anew with no job."""
        for table in ("jobs", "history", "dead_letters"):
            self.keeper.sql(f"DELETE FROM {{soniq}}.{table}")
        self.model.committed.clear()
        self.world = World([], [])

    def teardown(self) -> None:
        for desk in self.desks.values():
            desk.connection.rollback()

    @property
    def quiet(self) -> bool:
        return not self.model.changes

    @initialize(some=st.lists(draws("enqueue"), min_size=2, max_size=4), taken=draws("claim"))
    def begin_with_something(self, some: list[Draw], taken: Draw) -> None:
        for draw in (*some, taken):
            self.step("one", draw)

    # Rules are chosen about as often as one another, so what matters most has several.

    @rule(by=clients, draw=draws("enqueue"))
    def enqueue(self, by: str, draw: Draw) -> None:
        self.step(by, draw)

    @rule(by=clients, draw=draws("claim"))
    def claim(self, by: str, draw: Draw) -> None:
        # A claim may lock rows of a paused queue that it then leaves; in a worker, which has no
        # transaction open, for that moment only.
        if not (self.model.paused and by in self.model.changes):
            self.step(by, draw)

    @rule(by=clients, draw=draws(*ENDINGS))
    def end_an_attempt(self, by: str, draw: Draw) -> None:
        self.step(by, draw)

    @rule(by=clients, again=draws("again", "later", "release"), claim=draws("claim"))
    def run_again(self, by: str, again: Draw, claim: Draw) -> None:
        self.step(by, replace(again, units=0))
        self.claim(by, claim)

    @rule(by=clients, draw=draws(*WISHES))
    def wish(self, by: str, draw: Draw) -> None:
        self.step(by, draw)

    @rule(by=clients, draw=draws(*BY_ITSELF))
    def happen(self, by: str, draw: Draw) -> None:
        self.step(by, draw)

    def step(self, by: str, draw: Draw) -> None:
        """Do one thing, unless it would wait for the other client's transaction."""
        doing = operation(draw, self.world)
        if not doing.touches & self.model.locked(by):
            self._ask(by, doing)

    @precondition(lambda self: self.quiet and self.world.ids)
    @rule(first=draws(*MAKERS), second=draws(*MAKERS), commit=st.booleans())
    def meet(self, first: Draw, second: Draw, commit: bool) -> None:
        self.meet_at(self.world.job(first), first, second, commit)

    def meet_at(self, job_id: str, first: Draw, second: Draw, commit: bool) -> None:
        """Do two things to one job at once: the second must wait for the first, or pass it by."""
        one, two = CLIENTS
        self._begin(one)
        self._ask(one, operation(first, self.world, job_id))
        other = operation(second, self.world, job_id)
        asked = self.threads.submit(other.ask, self.desks[two])
        waited = self._waits(asked)
        if not waited:  # it saw what was before, and took no notice
            self._tell(two, other, asked.result())
        self._end(one, commit)
        if waited:
            self._tell(two, other, asked.result(20))

    def _waits(self, asked: Future[Any]) -> bool:
        while not asked.done():
            if self.keeper.somebody_waits():
                return True
        return False

    def _ask(self, by: str, doing: Operation) -> None:
        self._tell(by, doing, doing.ask(self.desks[by]))

    def _tell(self, by: str, doing: Operation, answer: Any) -> None:
        self.model.tick += 1
        assert answer == doing.tell(self.model, by, answer)

    @rule(by=clients)
    def begin(self, by: str) -> None:
        if by not in self.model.changes:
            self._begin(by)

    @precondition(lambda self: not self.quiet)
    @rule(by=clients, commit=st.booleans())
    def end(self, by: str, commit: bool) -> None:
        if by in self.model.changes:
            self._end(by, commit)

    def _begin(self, by: str) -> None:
        self.desks[by].sql("BEGIN")
        self.model.begin(by)

    def _end(self, by: str, commit: bool) -> None:
        self.desks[by].sql("COMMIT" if commit else "ROLLBACK")
        self.model.end(by, commit=commit)

    @precondition(lambda self: self.quiet)
    @rule()
    def time_passes(self) -> None:
        self.keeper.sql(
            "UPDATE {soniq}.jobs SET scheduled_at = scheduled_at - make_interval(secs => %s)",
            UNIT_SECONDS,
        )
        self.model.pass_time()

    @rule(worker=st.sampled_from(WORKERS), silent=st.sampled_from([False, False, True]))
    def silence(self, worker: str, silent: bool) -> None:
        self.keeper.worker(id=worker, tasks=KNOWN[worker], idle=True)
        self.model.live.add(worker)
        if silent:
            self.keeper.sql(
                "UPDATE {soniq}.workers SET seen_at = seen_at - interval '1 hour' WHERE id = %s",
                worker,
            )
            self.model.live.remove(worker)

    @rule(queue=st.sampled_from(QUEUES), paused=st.sampled_from([False, False, False, True]))
    def pause(self, queue: str, paused: bool) -> None:
        self.keeper.sql(
            """INSERT INTO {soniq}.queues (name, paused) VALUES (%s, %s)
               ON CONFLICT (name) DO UPDATE SET paused = excluded.paused""",
            *(queue, paused),
        )
        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @invariant()
    def the_tables_hold_what_the_model_says(self) -> None:
        assert stored(self.keeper) == told(self.model.committed)
        for by in self.model.changes:
            assert stored(self.desks[by]) == told(self.model.seen(by))


Stored = dict[str, tuple[Any, ...]]


def stored(desk: Desk) -> Stored:
    """Read all jobs, none of which may lie in two places."""
    found = desk.sql(STORED)
    rows: Stored = {}
    for job_id, *plain, notes, state, snoozes, asked, units, result, reason, replayed in found:
        noted = tuple((n["attempt"], n["outcome"], n["error"], n["worker_id"]) for n in notes)
        rows[job_id] = (*plain, noted, state, snoozes, asked, units, result, reason, replayed)
    assert len(rows) == len(found)
    return rows


def told(rows: dict[str, Row]) -> Stored:
    """Write the model's jobs as they are stored."""
    return {
        job_id: (
            *(row.task, row.queue, row.priority, row.max_attempts, row.attempt, row.worker),
            *(row.begun, row.notes, row.state, row.snoozes, row.cancel_requested),
            *(row.due and row.due[0], row.result, row.reason, row.replayed_as),
        )
        for job_id, row in rows.items()
    }


@pytest.mark.timeout(7200 if LONG else 180)
def test_a_job_lives_as_the_model_says(desk: Desk, desks: Callable[[str], Desk]) -> None:
    clients = {name: desks(desk.url) for name in CLIENTS}
    with ThreadPoolExecutor(1) as threads:
        run_state_machine_as_test(
            lambda: Life(desk, clients, threads),
            settings=settings(
                max_examples=5000 if LONG else 100,
                stateful_step_count=100 if LONG else 40,
                suppress_health_check=list(HealthCheck),
            ),
        )


ABOUT_JOBS = [kind for kind in MAKERS if kind != "enqueue"]

CLAIMED: list[dict[str, Any]] = [{"kind": "enqueue"}, {"kind": "claim"}]

# How a job of the first worker comes to be in each state.
BEFORE: dict[str, list[dict[str, Any]]] = {
    "scheduled": [{"kind": "enqueue", "units": 1}],
    "queued": [{"kind": "enqueue"}],
    "processing": CLAIMED,
    "asked to stop": [*CLAIMED, {"kind": "cancel"}],
    "claimed twice": [*CLAIMED, {"kind": "again"}, {"kind": "claim"}],
    "done": [*CLAIMED, {"kind": "finish"}],
    "dead": [*CLAIMED, {"kind": "bury"}],
}


@pytest.mark.parametrize("state", BEFORE)
def test_any_two_things_that_meet_at_a_job_leave_what_one_after_the_other_does(
    desk: Desk, desks: Callable[[str], Desk], state: str
) -> None:
    """A delete that waited for a cancel once answered False, and left the job in history."""
    clients = {name: desks(desk.url) for name in CLIENTS}
    with ThreadPoolExecutor(1) as threads:
        life = Life(desk, clients, threads)
        life.silence(WORKERS[0], silent=True)
        lease = int(state == "claimed twice")  # it is the first attempt that still writes
        commits = (True, False) if state in {"queued", "processing"} else (True,)
        try:
            for first, second, commit in product(ABOUT_JOBS, ABOUT_JOBS, commits):
                for more in BEFORE[state]:
                    life.step("one", plain_draw(**more))
                job_id = life.world.ids[-1]
                one, two = (plain_draw(kind, lease=lease) for kind in (first, second))
                life.meet_at(job_id, one, two, commit)
                life.the_tables_hold_what_the_model_says()
                life.forget()
        finally:
            life.teardown()


def plain_draw(kind: str, *, units: int = 0, lease: int = 0) -> Draw:
    """The simplest operation of a kind: about the newest job, of the first worker."""
    return Draw(kind, 0, lease, (), 0, 0, units, ((0, 0, 0, 2),))
