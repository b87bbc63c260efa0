"""Schedules that are due: finding them, and enqueueing each moment's job exactly once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from ..errors import ReadOnlyServer, UsageError
from ..job.codec import decode_row
from ..job.ids import new_id
from ..job.record import NewJob, moment
from ..job.schedule import Schedule
from ..job.unique import Enqueued
from ..policy.schedule import Firing, fire
from ..steps import Atomic, Query, Steps
from . import bulk

log = logging.getLogger("soniq.schedules")

# Schedules read at once; what is more is due in the next look, which follows at once.
BATCH = 100
# Jobs made at once, but for those of one schedule more: after a week a look has thousands to make
# up for, and to reckon them holds up all else that its thread does, a worker's heart among it.
MOST_JOBS = 1000
# A schedule that cannot be read here is tried again after so long; others may read it meanwhile.
POSTPONED_SECONDS = 60.0

# All of it by the index of `next_run`; the jobs that may hold a schedule by their ids.
DUE = """
    WITH due AS (
        SELECT s.next_run, to_jsonb(s) || jsonb_build_object(
            'args', CAST('{}' AS jsonb), 'text', CAST(s.args AS text),
            'live', CASE WHEN s.overlap <> 'allow' AND cardinality(s.holders) > 0 THEN (
                SELECT jsonb_agg(j.id) FROM {soniq}.jobs j WHERE j.id = ANY (s.holders)) END) AS row
        FROM {soniq}.schedules s
        WHERE NOT s.paused AND s.retired_at IS NULL AND s.next_run <= statement_timestamp()
        ORDER BY s.next_run LIMIT CAST(CAST(%(limit)s AS text) AS integer))
    SELECT CAST(jsonb_build_object(
        'now', statement_timestamp(),
        'writable', NOT CAST(current_setting('transaction_read_only') AS boolean),
        'next', (SELECT s.next_run FROM {soniq}.schedules s
                 WHERE NOT s.paused AND s.retired_at IS NULL ORDER BY s.next_run LIMIT 1),
        'due', (SELECT jsonb_agg(row ORDER BY next_run) FROM due)) AS text)"""

# What somebody else fires or changes at this moment, or has since it was read, is left to them; so
# of all who read one moment, one moves it on. SKIP LOCKED: the others need not wait to learn that.
MOVE = """
    WITH given AS (
        SELECT r.name, r.revision, r.moment, r.next_run, r.waiting, r.last_moment, r.ids, r.holders
        FROM jsonb_to_recordset(CAST(CAST(%(firings)s AS text) AS jsonb)) AS r(
            name text, revision bigint, moment timestamptz, next_run timestamptz, waiting boolean,
            last_moment timestamptz, ids uuid[], holders uuid[])),
    mine AS MATERIALIZED (
        SELECT s.name FROM {soniq}.schedules s JOIN given g USING (name)
        WHERE s.revision = g.revision FOR UPDATE OF s SKIP LOCKED)
    UPDATE {soniq}.schedules s SET
        moment = g.moment, next_run = g.next_run, waiting = g.waiting, holders = g.holders,
        last_moment = coalesce(g.last_moment, s.last_moment),
        last_run = CASE WHEN g.last_moment IS NULL THEN s.last_run ELSE statement_timestamp() END,
        last_job_id = coalesce(g.ids[cardinality(g.ids)], s.last_job_id),
        runs = s.runs + cardinality(g.ids), revision = s.revision + 1
    FROM given g
    WHERE g.name = s.name AND s.name IN (SELECT name FROM mine)
    RETURNING s.name"""


# Where a job with a key was there already: it is the one that counts.
TOOK = """
    UPDATE {soniq}.schedules s SET
        last_job_id = g.ids[cardinality(g.ids)], holders = g.holders, runs = s.runs - g.fewer
    FROM jsonb_to_recordset(CAST(CAST(%(firings)s AS text) AS jsonb)) AS g(
        name text, ids uuid[], holders uuid[], fewer integer)
    WHERE s.name = g.name"""

# The job before has ended. SKIP LOCKED: an ending never waits for who fires schedules; the moment
# is looked at again within a second all the same.
HURRY = """
    WITH mine AS MATERIALIZED (
        SELECT s.name FROM {soniq}.schedules s
        WHERE s.name = ANY (CAST(%(names)s AS text[])) AND s.waiting AND NOT s.paused
          AND s.retired_at IS NULL AND s.next_run > statement_timestamp()
        FOR UPDATE SKIP LOCKED),
    made AS (
        UPDATE {soniq}.schedules s SET
            next_run = statement_timestamp(), revision = s.revision + 1
        WHERE s.name IN (SELECT name FROM mine) RETURNING s.name)
    SELECT CASE WHEN CAST(%(notify)s AS text) <> 'off' THEN CAST(pg_notify({channel}, 's:') AS text)
        END FROM made"""
# What the answer to it is, for each schedule.
HURRIED = "s:"


@dataclass(frozen=True, slots=True)
class Fired:
    """A schedule that was moved on.

    Attributes:
        schedule: As it was before.
        firing: What was decided.
        ids: The jobs that were made.
        now: The database's clock when it was due.
    """

    schedule: Schedule
    firing: Firing
    ids: tuple[str, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class Tick:
    """What one look found.

    Attributes:
        due: How many schedules were due.
        fired: Those that this look moved on; the others were somebody else's.
        next_seconds: How long until the next is due; None while there is none.
    """

    due: int
    fired: tuple[Fired, ...]
    next_seconds: float | None


def tick(notify: str, limit: int = BATCH) -> Steps[Tick]:
    """Enqueue what is due: one statement while nothing is.

    Args:
        notify: `auto`, `always` or `off`.
        limit: At most so many schedules.
    """
    (found,) = yield from Query(DUE, {"limit": str(limit)}, lambda row: decode_row(row[0]))
    if not found["writable"]:  # else nothing would be missed there until something is due
        raise ReadOnlyServer(
            "The database takes no writes, so no schedule can be moved on. It is a standby, or "
            "read-only by its settings; point the URL at the primary."
        )
    rows = found["due"] or ()
    now = datetime.fromisoformat(found["now"])
    if not rows:
        following = moment(found["next"])
        wait = None if following is None else (following - now).total_seconds()
        return Tick(0, (), wait)
    decided, spoilt = _all_decided(rows, now)
    if spoilt:
        yield from Query(MOVE, {"firings": json.dumps(spoilt)})
    try:
        fired = yield from Atomic(_fire(decided, notify))
    except UsageError:  # of one; it must not stop the others
        fired = yield from _one_by_one(decided, notify)
    return Tick(len(rows), tuple(fired), 0.0)


def hurry(names: Sequence[str], notify: str) -> Query[str]:
    """Have moments that wait for the job before be due now; answer `HURRIED` for each."""
    return Query(HURRY, {"names": list(names), "notify": notify}, lambda row: HURRIED)


@dataclass(frozen=True, slots=True)
class _Decided:
    schedule: Schedule
    firing: Firing
    jobs: tuple[NewJob, ...]
    live: tuple[str, ...]
    now: datetime

    @property
    def ids(self) -> list[str]:
        return [job.id for job in self.jobs]

    def holders(self, ids: Sequence[str]) -> list[str]:
        return [] if self.schedule.overlap == "allow" else list(dict.fromkeys((*self.live, *ids)))

    def row(self) -> dict[str, Any]:
        firing = self.firing
        return {
            "name": self.schedule.name,
            "revision": self.schedule.revision,
            "moment": firing.moment.isoformat(),
            "next_run": firing.next_run.isoformat(),
            "waiting": firing.waiting,
            "last_moment": firing.moments[-1].isoformat() if firing.moments else None,
            "ids": self.ids,
            "holders": self.holders(self.ids),
        }

    def postponed(self, why: Exception) -> _Decided:
        """Leave it for a while: it cannot run."""
        later = _later(self.schedule.name, why, self.now)
        return replace(self, firing=Firing((), 0, self.schedule.moment, later), jobs=())


def _later(name: str, why: object, now: datetime) -> datetime:
    log.error("schedule %r cannot run: %s", name, why)
    return now + timedelta(seconds=POSTPONED_SECONDS)


def _all_decided(
    rows: Sequence[dict[str, Any]], now: datetime
) -> tuple[list[_Decided], list[dict[str, Any]]]:
    """Decide about as many as are enough for now; the others are rows that cannot be read."""
    decided: list[_Decided] = []
    spoilt: list[dict[str, Any]] = []
    jobs = 0
    for row in rows:
        try:
            each = _decided(row, now)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # Whatever somebody wrote by SQL, or a later version: it must not stop the others.
            later = _later(row["name"], f"its row cannot be read ({error!r})", now)
            spoilt.append({**row, "next_run": later.isoformat(), "last_moment": None, "ids": []})
            continue
        decided.append(each)
        jobs += len(each.jobs)
        if jobs >= MOST_JOBS:
            break
    return decided, spoilt


def _decided(row: dict[str, Any], now: datetime) -> _Decided:
    schedule, live = Schedule.of(row), tuple(row["live"] or ())
    nothing = Firing((), 0, schedule.moment, schedule.next_run)
    decided = _Decided(schedule, nothing, (), live, now)
    try:
        firing = fire(schedule, now, live=bool(live))
    except (UsageError, OverflowError) as error:
        return decided.postponed(error)
    return replace(decided, firing=firing, jobs=_jobs(schedule, row["text"], firing.moments))


def _jobs(schedule: Schedule, args: str, moments: Sequence[datetime]) -> tuple[NewJob, ...]:
    placement = schedule.placement
    return tuple(NewJob(new_id(), args, replace(placement, due=each)) for each in moments)


def _fire(decided: Sequence[_Decided], notify: str) -> Steps[list[Fired]]:
    """Move schedules on and store their jobs, both or neither; of each only if it is still ours."""
    firings = json.dumps([each.row() for each in decided])
    moved = set((yield from Query(MOVE, {"firings": firings}, lambda row: str(row[0]))))
    ours = [each for each in decided if each.schedule.name in moved]
    jobs = [job for each in ours for job in each.jobs]
    made = (yield from bulk.enqueue_many(jobs, (), notify)) if jobs else Enqueued()
    if set(made.outcomes) - {"enqueued"}:
        yield from _took(ours, made)
    ids = iter(made)
    return [
        Fired(each.schedule, each.firing, tuple(islice(ids, len(each.jobs))), each.now)
        for each in ours
    ]


def _took(ours: Sequence[_Decided], made: Enqueued) -> Steps[None]:
    """Keep which jobs stand for those that were not made."""
    standing, outcomes = iter(made), iter(made.outcomes)
    firings = []
    for each in ours:
        if number := len(each.jobs):
            ids = list(islice(standing, number))
            fewer = number - list(islice(outcomes, number)).count("enqueued")
            row = {"name": each.schedule.name, "ids": ids, "fewer": fewer}
            firings.append({**row, "holders": each.holders(ids)})
    yield from Query(TOOK, {"firings": json.dumps(firings)})


def _one_by_one(decided: Sequence[_Decided], notify: str) -> Steps[list[Fired]]:
    fired: list[Fired] = []
    for each in decided:
        try:
            fired += yield from Atomic(_fire([each], notify))
        except UsageError as error:  # such as a merger of arguments that became too large
            fired += yield from Atomic(_fire([each.postponed(error)], notify))
    return fired
