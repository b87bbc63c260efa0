"""Claims at gates read little: beside 100,000 jobs of a blocked key, whatever statistics say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from soniq.db import planner
from soniq.job.limits import Limits
from soniq.steps import Query
from soniq.store import claims, gates

from .desk import Desk
from .test_explain import UNATTENDED, executed, prepare

MINE = "8e5dd1a9-5a4b-4c2e-9d35-5f0f5c1ec0de"

# 'ka' is blocked by one that runs, and lies before all others in every order there is.
_FILL = """
    INSERT INTO {soniq}.jobs (id, task, state, gate, worker_id, scheduled_at, priority)
    SELECT {soniq}.uuid7(), 'task', CASE WHEN n = 0 THEN 'processing' ELSE 'queued' END,
        CASE WHEN n <= 100000 THEN 'ka' ELSE 'kb' || mod(n, 500) END,
        CASE WHEN n = 0 THEN gen_random_uuid() END,
        statement_timestamp() - interval '1 hour' + n * interval '1 ms', 100
    FROM generate_series(0, 110000) AS n"""
_PLAIN = """
    INSERT INTO {soniq}.jobs (id, task, scheduled_at)
    SELECT {soniq}.uuid7(), 'task', statement_timestamp() - interval '1 minute'
    FROM generate_series(1, 1000)"""
# Keys in order, each held by a retry that is not due.
_HELD = """
    INSERT INTO {soniq}.jobs (id, task, queue, state, gate, attempt, scheduled_at)
    SELECT {soniq}.uuid7(), 'task', 'held', s.state, 'o' || n,
        CAST(s.state = 'scheduled' AS integer),
        statement_timestamp() + CASE WHEN s.state = 'scheduled' THEN interval '1 hour'
                                     ELSE interval '0' END
    FROM generate_series(1, 500) AS n, (VALUES ('scheduled'), ('queued')) AS s(state)"""

# A rollback would take the prepared statements with it.
_BACK = f"""
    UPDATE {{soniq}}.jobs SET state = 'queued', worker_id = NULL, attempt = 0
    WHERE worker_id = '{MINE}'"""


def _claim(number: int, queue: str = "default") -> Query[Any]:
    return gates.claim(MINE, [queue], ["task", "other"], number, slots=number, most_bytes=10**7)


# Each with the most 8 kB blocks it may touch; table and indexes have some 6,000.
HOT: dict[str, tuple[Query[Any], int]] = {
    "claim 1": (_claim(1), 1500),
    "claim 100": (_claim(100), 4500),
    "claim of held keys": (_claim(10, "held"), 6000),
    "a plain claim": (claims.claim(MINE, {"default": 100}, ["task"]), 2500),
    "lanes": (claims.lanes([]), 120),
    "waiting": (gates.waiting([], ["task"]), 100),
}


@pytest.fixture(scope="module", params=["right", "taken while empty"])
def crowd(
    request: pytest.FixtureRequest,
    make_database: Callable[..., str],
    migrated_template: str,
    keeper: psycopg.Connection[Any],
) -> Iterator[Desk]:
    """A desk whose plans were kept since there was nothing."""
    desk = Desk(make_database(migrated_template))
    desk.sql(UNATTENDED)
    desk.ask(planner.SESSION)
    desk.ask(gates.declare({"task": Limits(key="k", key_concurrency=1)}))
    if request.param == "taken while empty":
        desk.sql("VACUUM ANALYZE {soniq}.jobs")
    for name, (query, _) in HOT.items():
        prepare(desk, name.replace(" ", "_"), query)
        for _ in range(6):  # from the sixth on, plans are kept
            executed(desk, name.replace(" ", "_"), query)
    for text in (_FILL, _PLAIN, _HELD):
        desk.sql(text)
    if request.param == "right":
        desk.sql("VACUUM ANALYZE {soniq}.jobs")
    for name, (query, _) in HOT.items():  # what the server reads of its own catalog is not counted
        executed(desk, name.replace(" ", "_"), query)
        desk.sql(_BACK)
    yield desk
    name = desk.connection.info.dbname
    desk.connection.close()
    keeper.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("name", HOT)
def test_a_claim_reads_little_beside_a_hundred_thousand_jobs_of_a_blocked_key(
    crowd: Desk, name: str
) -> None:
    query, most = HOT[name]
    plan = executed(crowd, name.replace(" ", "_"), query)
    crowd.sql(_BACK)
    touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert touched <= most


def test_the_keys_beside_the_blocked_one_are_served(crowd: Desk) -> None:
    taken = [row for row in crowd.ask(_claim(100)) if isinstance(row, gates.Taken)]
    crowd.sql(_BACK)
    assert taken
    assert "ka" not in {row.gate for row in taken}
