"""Enqueueing unique jobs against plain ones, and what many keys cost the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

from .drain import done_rate
from .process import Program
from .report import Goal, Row, interleave, paired, share
from .server import Target
from .tasks import application
from .timing import compare

CHUNK = 200
BULK = 5000
JOBS = 20_000
KEYS = 2_000_000


def run(target: Target) -> list[Row]:
    """Measure with the sync client; the async one sends the same statement."""
    return [*_enqueue(target), _drain(target)]


def _enqueue(target: Target) -> list[Row]:
    app = application(target.url)
    target.empty()
    number = count()
    unique = app.noop.options(unique=True)
    bulk = target.size(BULK)

    def singly(task: Any, numbers: Iterator[int]) -> Callable[[], None]:
        def enqueue() -> None:
            for _ in range(CHUNK):
                eq.enqueue(task, i=next(numbers))

        return enqueue

    def together(task: Any) -> Callable[[], object]:
        return lambda: eq.enqueue_many(task, [{"i": next(number)} for _ in range(bulk)])

    def measure(name: str, ours: Callable[[], object], plain: Any, each: int, *goals: Goal) -> Row:
        return compare(name, turns, ours, plain, each, goals)[0]

    with app.eq.sync as eq:
        turns, same = 5 * target.repeats, iter(lambda: 0, None)
        plain, many = singly(app.noop, number), together(app.noop)
        rows = [
            measure("enqueue unique, against plain", singly(unique, number), plain, CHUNK, _MOST),
            measure("enqueue a duplicate, against plain", singly(unique, same), plain, CHUNK),
            measure(
                f"bulk {bulk:,} unique, against plain", together(unique), many, bulk, share(0.2)
            ),
        ]
    target.empty()
    with target.connect() as connection:
        connection.execute("TRUNCATE soniq.keys")
    return rows


# A unique job is two rows and three indexes, not one and two.
_MOST = share(0.5)


def _drain(target: Target) -> Row:
    jobs, keys = target.size(JOBS), target.size(KEYS)
    with _many_keys(target, keys) as swap:

        def rate(*, with_keys: bool) -> float:
            swap(with_keys)
            target.load("soniq.jobs", "noop", jobs)
            with Program("worker_process", target.url, "--jobs", str(jobs)) as worker:
                worker.ended()
            return done_rate(target, jobs)

        pairs = interleave(
            target.repeats, partial(rate, with_keys=True), partial(rate, with_keys=False)
        )
    name = f"drain {jobs:,} beside {keys:,} keys, against none"
    return paired(name, "jobs/s", pairs, (share(0.95),))


@contextmanager
def _many_keys(target: Target, keys: int) -> Iterator[Callable[[bool], None]]:
    """Keep two tables of keys, one full; give what puts one or the other in place."""
    with target.connect() as connection:
        connection.execute("CREATE TABLE soniq.keys_full (LIKE soniq.keys INCLUDING ALL)")
        connection.execute(
            """INSERT INTO soniq.keys_full (task, key, holders, until)
               SELECT 'noop', 'k:' || n, ARRAY[gen_random_uuid()], now() + interval '1 hour'
               FROM generate_series(1, %s) AS n""",
            (keys,),
        )
        connection.execute("VACUUM ANALYZE soniq.keys_full")
        full = False

        def swap(wanted: bool) -> None:
            nonlocal full
            if wanted != full:
                full = wanted
                other, this = ("keys_none", "keys_full") if wanted else ("keys_full", "keys_none")
                connection.execute(f"ALTER TABLE soniq.keys RENAME TO {other}".encode())
                connection.execute(f"ALTER TABLE soniq.{this} RENAME TO keys".encode())

        yield swap
        swap(False)
        connection.execute("DROP TABLE soniq.keys_full")
