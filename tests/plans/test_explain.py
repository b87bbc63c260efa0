"""The hot statements use their index at 50,000 rows, whatever the statistics say.

And no less at 1,000,000, where they may read no more: `pytest -m slow tests/plans/test_explain.py`.

Statistics of a queue are always wrong: it was full when they were taken and is empty now, or the
other way about. So each plan is looked at under statistics wrong in both directions, with and
without the values known to the planner, and what it really read is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql

from soniq.db import planner
from soniq.job.ids import new_id
from soniq.steps import Query, Where
from soniq.store import bulk, claims, endings, history, jobs, workers
from soniq.store.endings import Told

from .desk import Desk, new_job
from .test_statements import numbered

MANY = 1_000_000
MINE = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"
SILENT = "0b0d3c6e-64b5-4d0b-a7a4-6c4f6a5dd0ff"

# Nine in ten lie in one deep queue.
_FILL = """
    INSERT INTO {soniq}.jobs (id, task, queue, state, scheduled_at, priority)
    SELECT {soniq}.uuid7(), 'task',
        CASE WHEN n %% 10 > 0 THEN 'deep' WHEN n %% 20 = 0 THEN 'a' ELSE 'z' END, %s,
        statement_timestamp() + n * interval '1 ms' - interval '1 hour', 100
    FROM generate_series(1, %s) AS n"""

# What runs: 500 jobs of this worker and 500 of one that fell silent; what is due: 200.
_SETTLE = """
    WITH n AS (
        SELECT id, n, n % {part} = 1 AS mine, n % {part} = {part} / 2 + 1 AS silent,
               n % 25 = 2 AS later
        FROM (SELECT id, row_number() OVER (ORDER BY scheduled_at, id) AS n
              FROM {soniq}.jobs) AS numbered)
    UPDATE {soniq}.jobs j SET
        state = CASE WHEN mine OR silent THEN 'processing'
                     WHEN later THEN 'scheduled' ELSE 'queued' END,
        scheduled_at = CASE WHEN later AND n > 5000
                            THEN statement_timestamp() + interval '1 hour' ELSE scheduled_at END,
        attempt = CASE WHEN mine OR silent THEN 1 ELSE 0 END,
        worker_id = CASE WHEN mine THEN CAST('{mine}' AS uuid)
                         WHEN silent THEN CAST('{silent}' AS uuid) END
    FROM n WHERE n.id = j.id AND (mine OR silent OR later OR j.state <> 'queued')""".replace(
    "{mine}", MINE
).replace("{silent}", SILENT)

_HISTORY = """
    INSERT INTO {soniq}.history (id, task, queue, args, state, priority, attempt, max_attempts,
                                   scheduled_at, created_at, finished_at)
    SELECT {soniq}.uuid7(), 'task', 'deep', '{}', 'done', 100, 1, 4, now(), now(),
        statement_timestamp() - n * interval '1 ms'
    FROM generate_series(1, %s) AS n"""


UNATTENDED = "ALTER TABLE {soniq}.jobs SET (autovacuum_enabled = false)"


def _filled(desk: Desk, statistics: str, rows: int) -> None:
    if statistics.startswith("taken while empty"):
        desk.sql("ANALYZE {soniq}.jobs")
    elif statistics == "taken while one row was there":
        desk.enqueue()
        desk.sql("ANALYZE {soniq}.jobs")
        desk.sql("DELETE FROM {soniq}.jobs")
    state = "scheduled" if statistics == "taken while none was queued" else "queued"
    desk.sql(_FILL, state, rows)
    if statistics in {"taken while all was queued", "taken while none was queued"}:
        desk.sql("ANALYZE {soniq}.jobs")
    desk.sql(_SETTLE.replace("{part}", str(rows // 500)))
    desk.sql(_HISTORY, rows)
    if statistics == "right":
        desk.sql("VACUUM ANALYZE {soniq}.jobs")
    elif statistics == "taken while empty, of a twentieth of the jobs":
        # The planner counts by pages, and takes these for those of a million rows.
        desk.sql(
            "UPDATE pg_class SET relpages = 1, reltuples = 1000"
            " WHERE oid = CAST('{soniq}.jobs' AS regclass)"
        )
    desk.watch_since_an_hour()
    desk.worker(id=MINE)
    desk.sql("SET jit = off")


STATISTICS = (
    "right",
    "taken while all was queued",
    "taken while none was queued",
    "taken while empty",
    "taken while empty, of a twentieth of the jobs",
    "taken while one row was there",
    "never taken",
)


@pytest.fixture(
    scope="module",
    params=[
        *((statistics, 50_000) for statistics in STATISTICS),
        *(
            pytest.param((statistics, MANY), marks=[pytest.mark.slow, pytest.mark.timeout(600)])
            for statistics in ("right", "taken while all was queued", "taken while empty")
        ),
    ],
    ids=lambda given: f"{given[0]}, {given[1]:,} rows",
)
def full(
    request: pytest.FixtureRequest,
    make_database: Callable[..., str],
    migrated_template: str,
    keeper: psycopg.Connection[Any],
) -> Iterator[Desk]:
    """A desk at a database with so many live jobs and as many finished ones."""
    desk = Desk(make_database(migrated_template))
    desk.sql(UNATTENDED)
    _filled(desk, *request.param)
    yield desk
    name = desk.connection.info.dbname
    desk.connection.close()
    keeper.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def _held(desk: Desk, number: int) -> list[str]:
    rows = desk.sql(
        "SELECT CAST(id AS text) FROM {soniq}.jobs WHERE worker_id = %s ORDER BY id LIMIT %s",
        MINE,
        number,
    )
    return [job_id for (job_id,) in rows]


def _above(desk: Desk) -> list[tuple[int, datetime]]:
    """Begin in the middle of the queue; of two priorities one has nothing."""
    middle = desk.value("SELECT min(scheduled_at) + interval '25 s' FROM {soniq}.jobs")
    return [(1, middle), (100, middle)]


def _told(desk: Desk, number: int) -> list[Told]:
    more: dict[str, Any] = {"delay": 5.0, "reason": "r", "outcome": "failed", "error": "E"}
    return [Told(job_id, 1, **more) for job_id in _held(desk, number)]


def _of(steps: Any) -> Query[Any]:
    """Take the first query an operation asks for."""
    if isinstance(steps, Query):
        return steps
    step = next(steps)
    if isinstance(step, Where):
        step = steps.send(None)
    assert isinstance(step, Query)
    return step


# Each with the most 8 kB blocks it may touch; the table has about 1,500, its indexes as many.
HOT: dict[str, tuple[Callable[[Desk], Any], int]] = {
    "claim 1": (lambda _: claims.claim(MINE, {"deep": 1}, ["task"]), 60),
    "claim ahead": (
        lambda _: claims.claim(MINE, {"deep": 100}, ["task"], slots=10, most_bytes=10**7),
        3000,
    ),
    "claim above": (lambda d: claims.claim(MINE, {"deep": 50}, ["task"], above=_above(d)), 3000),
    "claim 100": (lambda _: claims.claim(MINE, {"deep": 80, "z": 20}, ["task", "b"]), 3000),
    "finish 1": (lambda d: endings.finish(MINE, _held(d, 1), [1], ["1"]), 60),
    "finish 100": (lambda d: endings.finish(MINE, _held(d, 100), [1] * 100, ["1"] * 100), 2500),
    "again": (lambda d: endings.again(MINE, _told(d, 10)), 500),
    "later": (lambda d: endings.later(MINE, _told(d, 10)), 500),
    "bury": (lambda d: endings.bury(MINE, _told(d, 10)), 500),
    "drop": (lambda d: endings.drop(MINE, _told(d, 10)), 500),
    "release": (lambda d: endings.release(MINE, _told(d, 10), "auto"), 500),
    "held": (lambda d: workers.held(MINE, _held(d, 10)), 100),
    "forgotten": (lambda d: claims.hand_back_forgotten(MINE, _held(d, 495)), 2000),
    "rescue": (lambda _: workers.rescue(30, "auto"), 15_000),
    "stage": (lambda _: claims.stage("auto"), 6000),
    "lanes": (lambda _: claims.lanes([]), 60),
    "lanes beside": (lambda _: claims.lanes([], beside=["deep"]), 60),
    "lanes of": (lambda _: claims.lanes(["a", "deep", "none"]), 60),
    "unknown": (lambda _: claims.unknown_tasks(["deep", "a"], ["task"]), 3000),
    "insert": (lambda d: jobs.enqueue(new_job(), "off", d.waking), 60),
    "insert and wake": (lambda d: jobs.enqueue(new_job(), "auto", d.waking), 60),
    "insert many": (lambda _: bulk.enqueue_many([new_job() for _ in range(100)], (), "auto"), 2500),
    "get": (lambda d: jobs.find(_held(d, 1)[0]), 60),
    "get none": (lambda _: jobs.find(new_id()), 60),
    "cancel": (lambda d: jobs.cancel(_held(d, 1)[0], "always"), 60),
    "delete": (lambda d: jobs.delete(_held(d, 1)[0], "off"), 60),
    "reschedule": (lambda d: jobs.reschedule(_held(d, 1)[0], 5.0, "auto"), 60),
    "beat": (lambda _: workers.beat(_SIGN), 60),
    "prune": (lambda _: history.prune_dead_letters(60), 60),
}

# These run on connections of which a worker has not the say, or on the one that writes endings:
# the planner's settings are not made there.
ANYBODYS = {
    "insert",
    "insert and wake",
    "insert many",
    "get",
    "get none",
    "cancel",
    "delete",
    "reschedule",
}
ENDINGS = {"finish 1", "finish 100", "again", "later", "bury", "drop", "release"}

_SIGN = workers.Sign(MINE, "w", (), ("task",), 1, 0, "running", False, "0")


def explained(desk: Desk, name: str, query: Query[Any], mode: str) -> dict[str, Any]:
    """Run a statement with the given kind of plan, tell how it was done, and undo it."""
    with desk.connection.transaction(force_rollback=True):
        if name not in ANYBODYS | ENDINGS:
            for step in planner.LOCAL:
                desk.ask(step)
        desk.sql(f"SET LOCAL plan_cache_mode = force_{mode}_plan")
        prepare(desk, "hot", query)
        plan = executed(desk, "hot", query)
        desk.connection.execute("DEALLOCATE hot")
    return plan


def prepare(desk: Desk, name: str, query: Query[Any]) -> None:
    desk.connection.execute(f"PREPARE {name} AS {numbered(query.sql)}".encode())


def executed(desk: Desk, name: str, query: Query[Any]) -> dict[str, Any]:
    """Run a prepared statement and tell how it was done."""
    values = [sql.Literal(query.params[key]) for key in dict.fromkeys(_names(query.sql))]
    call = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE ") + sql.Identifier(name)
    if values:
        call += sql.SQL("({})").format(sql.SQL(", ").join(values))
    plan: dict[str, Any] = desk.connection.execute(call).fetchall()[0][0][0]["Plan"]
    return plan


def _names(text: str) -> list[str]:
    from .test_statements import _PARAMETER

    return _PARAMETER.findall(text)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def complaints(plan: dict[str, Any]) -> list[str]:
    """List what no hot statement may do."""
    found = []
    for node in nodes(plan):
        kind, table = node["Node Type"], node.get("Relation Name", "")
        if kind == "Seq Scan" and table in {"jobs", "dead_letters"} and _rows(node) > 100:
            found.append(f"Seq Scan on {table}")
        if kind == "Seq Scan" and table.startswith("history") and node["Actual Loops"]:
            found.append(f"Seq Scan on {table}")
        if kind in {"Sort", "Hash"} and _rows(node) > 2000:
            found.append(f"{kind} of {_rows(node)} rows")
        thrown = node.get("Rows Removed by Filter", 0) + node.get(
            "Rows Removed by Index Recheck", 0
        )
        if table == "jobs" and thrown * node["Actual Loops"] > 600:
            found.append(f"{kind} on {table} threw away {thrown} x {node['Actual Loops']} rows")
    return found


def _rows(node: dict[str, Any]) -> float:
    thrown = node.get("Rows Removed by Filter", 0)
    return float((node["Actual Rows"] + thrown) * node["Actual Loops"])


@pytest.mark.parametrize("mode", ["generic", "custom"])
@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_reads_little_whatever_the_statistics_say(
    full: Desk, name: str, mode: str
) -> None:
    make, most = HOT[name]
    plan = explained(full, name, _of(make(full)), mode)
    assert complaints(plan) == []
    assert _touched(plan) <= most


def _touched(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


KEPT = ("claim 1", "claim ahead", "claim 100", "forgotten", "stage", "lanes", "lanes of", "unknown")


def test_a_plan_kept_since_there_was_nothing_reads_little(desk: Desk) -> None:
    """A vacuumed empty table has no pages, so reading it whole seemed free to the planner.

    A worker that waits for work keeps such plans, and each claim read the whole queue until the
    table was analysed.
    """
    desk.sql(UNATTENDED)
    desk.sql("VACUUM ANALYZE {soniq}.jobs")
    desk.ask(planner.SESSION)
    desk.sql("SET plan_cache_mode = force_generic_plan")
    for name in KEPT:
        query = _of(HOT[name][0](desk))
        prepare(desk, name.replace(" ", "_"), query)
        executed(desk, name.replace(" ", "_"), query)
    _filled(desk, "as they were", 50_000)
    for name in KEPT:
        with desk.connection.transaction(force_rollback=True):
            plan = executed(desk, name.replace(" ", "_"), _of(HOT[name][0](desk)))
        assert complaints(plan) == [], name
        assert _touched(plan) <= HOT[name][1], name
