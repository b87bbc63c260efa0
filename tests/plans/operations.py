"""The operations of a job's life, each as asked of the database and as told to the model."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from soniq.errors import SoniqError
from soniq.job.ids import new_id
from soniq.job.record import NewJob
from soniq.steps import Query
from soniq.store import bulk, claims, dead_letters, endings, jobs, workers
from soniq.store.endings import Told

from .desk import Desk, new_job
from .model import Lease, Model, Row

# One unit of the model's time; no run of the machine lasts as long.
UNIT_SECONDS = 1000.0
TASKS, QUEUES, WORKERS = ("a", "b"), ("x", "y"), tuple(str(uuid.UUID(int=n)) for n in (1, 2, 3))
# The third worker is of an older release, and has but one of the tasks.
KNOWN = {WORKERS[0]: TASKS, WORKERS[1]: TASKS, WORKERS[2]: TASKS[:1]}


@dataclass(frozen=True)
class Draw:
    """An operation before it is known what there is to do it to: numbers to choose by.

    `job` and `lease` count from the newest, so that small numbers choose what is in use.
    """

    kind: str
    job: int
    lease: int
    more: tuple[int, ...]
    worker: int
    number: int
    units: int
    new: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        ask: Does it, and gives a plain answer.
        tell: Says what the answer must be, and changes the model; it is given the answer because
            of the ids that are made on the way.
        touches: Jobs it would wait for, were they locked.
    """

    ask: Callable[[Desk], Any]
    tell: Callable[[Model, str, Any], Any]
    touches: frozenset[str] = frozenset()


@dataclass
class World:
    """What there ever was: jobs in the order of their making, and all attempts ever claimed."""

    ids: list[str]
    leases: list[tuple[str, str, int]]

    def job(self, draw: Draw) -> str:
        """Choose a job; a stranger when there is none."""
        return self.ids[-1 - draw.job % len(self.ids)] if self.ids else new_id()

    def attempts(self, draw: Draw, job_id: str | None) -> tuple[str, list[Lease]]:
        """Choose a worker, and attempts it writes about, its own and others', old and new."""
        mine = [each for each in self.leases if job_id in {None, each[1]}]
        if not mine:
            return WORKERS[draw.worker], [(self.job(draw), 1)]
        worker, *first = mine[-1 - draw.lease % len(mine)]
        others = [self.leases[-1 - n % len(self.leases)][1:] for n in draw.more]
        chosen: list[Any] = [tuple(first), *(each for each in others if each != tuple(first))]
        return worker, list(dict.fromkeys(chosen))


def _enqueue(draw: Draw, world: World, _: str | None) -> Operation:
    # One by one, many at once, or from a trigger; the first number says which.
    how = draw.number % 3
    rows = {}
    for task, queue, priority, attempts in draw.new[: None if how == 1 else 1]:
        rows[new_id()] = Row(
            "scheduled" if draw.units > 0 else "queued",
            TASKS[task], QUEUES[queue], (50, 100)[priority], attempts, (draw.units, 0),
        )  # fmt: skip

    def ask(desk: Desk) -> None:
        world.ids += rows
        made = [_new(job_id, row, draw) for job_id, row in rows.items()]
        if how == 0:
            desk.ask(jobs.enqueue(made[0], "auto", desk.waking))
        elif how == 1:
            desk.ask(bulk.enqueue_many(made, (), "auto"))
        else:
            _by_function(desk, made[0], draw.units)

    def tell(model: Model, by: str, _: Any) -> None:
        due = (draw.units, model.tick)
        model.enqueue(by, {job_id: replace(row, due=due) for job_id, row in rows.items()})

    return Operation(ask, tell)


def _new(job_id: str, row: Row, draw: Draw) -> NewJob:
    due: datetime | float | None = draw.units * UNIT_SECONDS or None
    if draw.units < 0 or draw.worker == 0:
        due = datetime.now(UTC) + timedelta(seconds=draw.units * UNIT_SECONDS)
    return new_job(
        id=job_id, task=row.task, queue=row.queue, priority=row.priority,
        max_attempts=row.max_attempts, due=due,
    )  # fmt: skip


def _by_function(desk: Desk, job: NewJob, units: int) -> None:
    placed = job.placement
    desk.sql(
        """SELECT {soniq}.enqueue(%s, queue => %s, priority => %s, max_retries => %s, id => %s,
               scheduled_at => statement_timestamp() + make_interval(secs => %s))""",
        *(placed.task, placed.queue, placed.priority, placed.max_attempts - 1, job.id),
        units * UNIT_SECONDS,
    )


def _of_job(ask: Callable[[str, Draw], Any], tell: Callable[..., Any]) -> Any:
    def make(draw: Draw, world: World, job_id: str | None) -> Operation:
        chosen = job_id or world.job(draw)

        def asked(desk: Desk) -> Any:
            answer = _answer(desk, ask(chosen, draw))
            if isinstance(answer, str) and answer not in {chosen, *ERRORS}:
                world.ids.append(answer)
            return answer

        def told(model: Model, by: str, answer: Any) -> Any:
            return tell(model, by, chosen, draw, answer)

        return Operation(asked, told, frozenset({chosen}))

    return make


ERRORS = ("JobNotFound", "InvalidTransition")


def _answer(desk: Desk, steps: Any) -> Any:
    try:
        return desk.ask(steps)
    except SoniqError as error:
        if type(error).__name__ not in ERRORS:
            raise
        return type(error).__name__


def _claim(draw: Draw, world: World, _: str | None) -> Operation:
    worker = WORKERS[draw.worker]
    numbers = dict.fromkeys(QUEUES[draw.job // 4 :], draw.number + 1)

    def ask(desk: Desk) -> dict[str, int]:
        taken = desk.ask(claims.claim(worker, numbers, KNOWN[worker]))
        world.leases += [(worker, each.id, each.attempt) for each in taken]
        return {each.id: each.attempt for each in taken}

    return Operation(ask, lambda model, by, _: model.claim(by, worker, numbers, KNOWN[worker]))


def _stage(*_: Any) -> Operation:
    def ask(desk: Desk) -> int:
        (staged,) = desk.ask(claims.stage("auto"))
        return int(staged.moved)

    return Operation(ask, lambda model, by, _: model.stage(by))


def _rescue(*_: Any) -> Operation:
    def ask(desk: Desk) -> dict[str, str]:
        return {each.id: each.fate for each in desk.ask(workers.rescue(30, "auto"))}

    return Operation(ask, lambda model, by, _: model.rescue(by))


def _forgotten(draw: Draw, world: World, _: str | None) -> Operation:
    worker = WORKERS[draw.worker]
    known = [world.job(replace(draw, job=n)) for n in draw.more]

    def ask(desk: Desk) -> set[str]:
        return set(desk.ask(claims.hand_back_forgotten(worker, known)))

    # What it holds may be locked; whoever calls this finds out by the leases.
    touches = frozenset(job_id for who, job_id, _ in world.leases if who == worker)
    return Operation(ask, lambda model, by, _: model.forgotten(by, worker, known), touches)


def _ending(
    write: Callable[[str, list[Lease], Draw], Query[str]], how: Callable[[Row, Draw, int], Row]
) -> Any:
    def make(draw: Draw, world: World, job_id: str | None) -> Operation:
        worker, leases = world.attempts(draw, job_id)

        def ask(desk: Desk) -> set[str]:
            answer = desk.ask(write(worker, leases, draw))
            assert len(answer) == len(set(answer))
            return set(answer)

        def tell(model: Model, by: str, _: Any) -> set[str]:
            return model.end_attempts(by, worker, leases, lambda row: how(row, draw, model.tick))

        return Operation(ask, tell, frozenset(job_id for job_id, _ in leases))

    return make


def _told(leases: Sequence[Lease], draw: Draw) -> list[Told]:
    more: dict[str, Any] = {"reason": "why", "outcome": "failed", "error": "E: e"}
    delay = max(0, draw.units) * UNIT_SECONDS
    return [Told(job_id, attempt, delay=delay, **more) for job_id, attempt in leases]


def _finish(worker: str, leases: list[Lease], draw: Draw) -> Query[str]:
    results: list[str | None] = [json.dumps(draw.units) if draw.units else None for _ in leases]
    return endings.finish(worker, [each for each, _ in leases], [n for _, n in leases], results)


def _snoozed(row: Row, draw: Draw, tick: int) -> Row:
    due = (max(0, draw.units), tick)
    return replace(row.waiting(due, spent=False, begun=True), snoozes=row.snoozes + 1)


MAKERS: dict[str, Callable[[Draw, World, str | None], Operation]] = {
    "enqueue": _enqueue,
    "claim": _claim,
    "finish": _ending(
        _finish,
        lambda row, draw, _: row.ended("done", result=str(draw.units) if draw.units else None),
    ),
    "again": _ending(
        lambda worker, leases, draw: endings.again(worker, _told(leases, draw)),
        lambda row, draw, tick: row.noted("failed", "E: e").waiting(
            (max(0, draw.units), tick), spent=True, begun=True
        ),
    ),
    "later": _ending(
        lambda worker, leases, draw: endings.later(worker, _told(leases, draw)), _snoozed
    ),
    "bury": _ending(
        lambda worker, leases, draw: endings.bury(worker, _told(leases, draw)),
        lambda row, *_: row.noted("failed", "E: e").ended("dead_letter", reason="why"),
    ),
    "drop": _ending(
        lambda worker, leases, draw: endings.drop(worker, _told(leases, draw)),
        lambda row, *_: row.ended("cancelled", reason="why"),
    ),
    "release": _ending(
        lambda worker, leases, draw: endings.release(worker, _told(leases, draw), "auto"),
        lambda row, *_: row.waiting(row.due, spent=False, begun=False),
    ),
    "cancel": _of_job(
        lambda job_id, _: jobs.cancel(job_id, "auto"),
        lambda model, by, job_id, *_: model.cancel(by, job_id),
    ),
    "delete": _of_job(
        lambda job_id, _: jobs.delete(job_id, "off"),
        lambda model, by, job_id, *_: model.delete(by, job_id),
    ),
    "reschedule": _of_job(
        lambda job_id, draw: jobs.reschedule(job_id, max(0, draw.units) * UNIT_SECONDS, "auto"),
        lambda model, by, job_id, draw, _: model.reschedule(by, job_id, max(0, draw.units)),
    ),
    "retry": _of_job(
        lambda job_id, _: jobs.retry(job_id, "auto"),
        lambda model, by, job_id, _, answer: model.retry(by, job_id, answer),
    ),
    "replay": _of_job(
        lambda job_id, _: dead_letters.replay(job_id, "auto"),
        lambda model, by, job_id, _, answer: model.replay(by, job_id, answer),
    ),
    "stage": _stage,
    "rescue": _rescue,
    "forgotten": _forgotten,
}

ENDINGS = ("finish", "again", "later", "bury", "drop", "release")
WISHES = ("cancel", "delete", "reschedule", "retry", "replay")
BY_ITSELF = ("stage", "rescue", "forgotten")

_few, _zero_or_one = st.integers(0, 5), st.integers(0, 1)


def draws(*kinds: str) -> st.SearchStrategy[Draw]:
    """Draw operations of some kinds."""
    return st.builds(
        Draw,
        kind=st.sampled_from(kinds),
        job=_few,
        lease=_few,
        more=st.lists(_few, max_size=2).map(tuple),
        worker=st.sampled_from([0, 0, 1, 2]),
        number=st.integers(0, 2),
        units=st.sampled_from([0, 0, 0, -1, 1, 2]),
        new=st.lists(
            st.tuples(_zero_or_one, _zero_or_one, _zero_or_one, st.integers(1, 3)),
            min_size=1,
            max_size=3,
        ).map(tuple),
    )


def operation(draw: Draw, world: World, job_id: str | None = None) -> Operation:
    """Make an operation; on one job, if it is of one and a job is given."""
    return MAKERS[draw.kind](draw, world, job_id)
