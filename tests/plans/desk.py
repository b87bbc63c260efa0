"""One connection at a time, held in the open: transactions and interleavings are the tests' own."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from soniq.db.psycopg_hosts import PsycopgHost
from soniq.db.render import render
from soniq.db.sync import drive
from soniq.db.sync_connection import Connection
from soniq.job.ids import new_id
from soniq.job.record import Claimed, NewJob, Placement
from soniq.policy.waking import Waking
from soniq.steps import Query, Steps
from soniq.store import claims, endings, jobs, workers


class Desk:
    """A connection in autocommit, and the words the tests use on it."""

    def __init__(self, url: str, schema: str = "soniq") -> None:
        self.url, self.schema = url, schema
        self.connection = Connection.connect(url, autocommit=True)
        self.waking = Waking(time.monotonic)

    def ask(self, steps: Steps[Any] | Query[Any]) -> Any:
        """Drive an operation, or run one query."""
        host = PsycopgHost(self.connection, self.schema, own=True)
        return host.query(steps) if isinstance(steps, Query) else drive(steps, host)

    def sql(self, text: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a statement of the test; `{soniq}` and `{channel}` are filled in."""
        cursor = self.connection.execute(render(text, self.schema).encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, text: str, *params: object) -> Any:
        """Run a statement and give the first column of its first row."""
        return self.sql(text, *params)[0][0]

    def another(self) -> Desk:
        """Connect once more to the same database and schema."""
        return Desk(self.url, self.schema)

    def enqueue(self, notify: str = "off", **changes: Any) -> str:
        """Store a job as a client that remembers nothing; answer its id."""
        return str(self.ask(jobs.enqueue(new_job(**changes), notify, Waking(time.monotonic))))

    def worker(self, **changes: Any) -> str:
        """Sign a worker in; answer its id."""
        sign = {
            "id": str(uuid.uuid4()),
            "name": "test",
            "queues": (),
            "tasks": ("task",),
            "concurrency": 1,
            "running": 0,
            "state": "running",
            "idle": False,
            "version": "0",
        }
        given = workers.Sign(**{**sign, **changes})  # type: ignore[arg-type]
        self.ask(workers.beat(given))
        return given.id

    def watch_since_an_hour(self) -> None:
        """Have the watch for silent workers begun long enough ago."""
        self.sql(
            """INSERT INTO {soniq}.watch (since) VALUES (now() - interval '1 hour')
               ON CONFLICT (single) DO UPDATE SET since = excluded.since"""
        )

    def claim(self, worker: str, number: int = 1, queue: str = "default") -> list[Claimed]:
        """Claim from one queue."""
        jobs: list[Claimed] = self.ask(claims.claim(worker, {queue: number}, ["task"]))
        return jobs

    def finish(self, worker: str, job_id: str, attempt: int, result: str | None = None) -> Any:
        """Write one attempt's good ending; answer the ids that were written."""
        return self.ask(endings.finish(worker, [job_id], [attempt], [result]))

    def state(self, job_id: str) -> str | None:
        """Tell where in its life a job is; None if it is nowhere."""
        job = self.ask(jobs.find(job_id))
        return None if job is None else str(job.status)

    def until_somebody_waits(self, number: int = 1) -> None:
        """Return once so many other connections to this database wait for a lock."""
        deadline = time.monotonic() + 20
        while self.waiting() < number:
            assert time.monotonic() < deadline, "nobody ever waited"

    def somebody_waits(self) -> bool:
        """Tell whether another connection to this database waits for a lock."""
        return self.waiting() > 0

    def waiting(self) -> int:
        """Count the connections to this database that wait for a lock."""
        waiting = """
            SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE NOT l.granted AND a.datname = current_database()"""
        return int(self.value(waiting))

    def everything(self) -> str:
        """Write down all that is stored about jobs, to see that nothing changed."""
        tables = ("jobs", "history", "dead_letters")
        rows = [
            self.sql(f"SELECT CAST(to_jsonb(t) AS text) FROM {{soniq}}.{table} t ORDER BY 1")
            for table in tables
        ]
        return json.dumps(rows)


def new_job(**changes: Any) -> NewJob:
    """Describe a job; the defaults are those of `soniq.enqueue()`."""
    values: Mapping[str, Any] = {
        "task": "task",
        "queue": "default",
        "priority": 100,
        "due": None,
        "max_attempts": 4,
    }
    job_id, args = changes.pop("id", None) or new_id(), changes.pop("args", "{}")
    return NewJob(job_id, args, Placement(**{**values, **changes}))
