"""The account: hold what the database says of every job against what the ledger says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .ledger import Book, Run

# Everything that is known of a job, wherever it lies; and the rows that handlers and callers wrote
# in one transaction with it.
ROWS = """
    SELECT key, CAST(id AS text), task, state, attempt, coalesce(attempts, '[]'),
           CAST(worker_id AS text), result,
           (SELECT count(*) FROM effects e WHERE e.key = found.key),
           (SELECT count(*) FROM orders o WHERE o.key = found.key)
    FROM (SELECT args ->> 'key' AS key, id, task, state, attempt, attempts, worker_id, result
          FROM soniq.history
          UNION ALL
          SELECT args ->> 'key', id, task, 'dead_letter', attempt, attempts, worker_id, NULL
          FROM soniq.dead_letters
          UNION ALL
          SELECT args ->> 'key', id, task, state, attempt, attempts, worker_id, NULL
          FROM soniq.jobs) AS found"""
ORDERS = "SELECT key FROM orders"

EFFECT = "note_effect"
MADE_TO_FAIL = "odd_"
ENDED = ("done", "cancelled", "dead_letter")
# Time in which the end of a run is written while nothing is wrong, with a good deal to spare.
UNWRITTEN_SECONDS = 5.0
# Seconds after a fault in which its victim may still begin what it held ready: until its next
# heartbeat tells it, or until it fences itself.
STALE_SECONDS = {"thawed": 1.0, "blocked": 1.0, "cut off": 3.0}
# What may end a run that was not the job's last, and what of it the database must know: that an
# attempt was spent on a lost worker, that none was, or either (the worker may have been quicker).
SPENDS = {
    "killed": True,
    "frozen": None,
    "thawed": None,
    "blocked": None,
    "cut off": None,
    "fenced": None,
    "stopped": False,
}


@dataclass(frozen=True, slots=True)
class Record:
    """A job as the database has it."""

    key: str
    job: str
    task: str
    state: str
    attempt: int
    attempts: list[dict[str, Any]]
    worker: str | None
    result: Any
    effects: int = 0
    orders: int = 0


@dataclass(slots=True)
class Account:
    """What came out.

    Attributes:
        problems: What does not balance; none is what everybody hopes for.
    """

    acknowledged: int = 0
    unknown: int = 0
    unknown_stored: int = 0
    states: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def balanced(self) -> bool:
        """Whether every job is accounted for."""
        return not self.problems


def balance(book: Book, records: Iterable[Record], orders: Iterable[str] = ()) -> Account:
    """Account for every job.

    Args:
        book: The ledger.
        records: What the database has.
        orders: Keys of the rows that callers wrote in the transactions of their jobs.
    """
    kept: dict[str, list[Record]] = {}
    for record in records:
        kept.setdefault(record.key, []).append(record)
    account = Account(
        acknowledged=len(book.acknowledged),
        unknown=len(book.unknown),
        unknown_stored=sum(key in kept for key in book.unknown),
        runs=sum(map(len, book.runs.values())),
        faults=Counter(fault.kind for fault in book.faults),
    )
    for key in sorted({*book.acknowledged, *book.unknown, *kept, *book.runs}):
        account.problems += [f"{key}: {said}" for said in _one(key, book, kept, account)]
    account.problems += [f"{key}: ordered, without its job" for key in {*orders} - {*kept}]
    return account


def unproved(account: Account, jobs: int, hurts: Iterable[str]) -> list[str]:
    """Say why an account proves nothing though it balances.

    Args:
        account: What came out.
        jobs: How many were to be enqueued.
        hurts: The faults that were to happen.
    """
    said = [f"the fault never happened: {kind}" for kind in hurts if not account.faults[kind]]
    if account.acknowledged < jobs:
        said.append(f"{account.acknowledged} of {jobs} jobs were acknowledged")
    if not account.states["done"]:
        said.append("no job is done")
    return said


def _one(key: str, book: Book, kept: dict[str, list[Record]], account: Account) -> list[str]:
    found, runs = kept.get(key, []), book.runs.get(key, [])
    if not found:
        if key in book.acknowledged:
            return ["acknowledged, and lost"]
        return ["ran, and is not in the database"] if runs else []
    if len(found) > 1:
        return [f"is there {len(found)} times"]
    record = found[0]
    account.states[record.state] += 1
    if key not in book.acknowledged and key not in book.unknown:
        return ["nobody enqueued it"]
    if book.acknowledged.get(key, record.job) != record.job:
        return [f"has the id {record.job}, not the one its producer was given"]
    if record.state not in ENDED:
        return [f"is still {record.state} (attempt {record.attempt})"]
    return [
        *_given_up(record),
        *_history(record, runs, book, account),
        *_repeats(record, runs, book, account),
        *_last(record, runs),
        *_rows(record),
    ]


def _given_up(record: Record) -> list[str]:
    """Only what is made to fail may fail for good, and nobody cancels anything."""
    if record.state == "done" or record.task.startswith(MADE_TO_FAIL):
        return []
    return [f"is {record.state} after {record.attempt} attempts"]


def _history(record: Record, runs: list[Run], book: Book, account: Account) -> list[str]:
    """The attempts that the database says were spent: none missing, each with its reason."""
    said: list[str] = []
    spent = record.attempt - (record.state == "done")
    numbers = [entry["attempt"] for entry in record.attempts]
    if numbers != list(range(1, spent + 1)):
        said.append(f"{record.state} in attempt {record.attempt}, its attempts say {numbers}")
    for entry in record.attempts:
        outcome, worker = entry["outcome"], entry["worker_id"]
        account.spent[outcome] += 1
        if outcome == "worker_lost":
            pid = book.pids.get(worker)
            hurt = (fault.hit == pid and fault.kind in SPENDS for fault in book.faults)
            if not any(hurt):
                said.append(f"attempt {entry['attempt']} lost with a worker that nobody hurt")
        elif not any(
            (run.attempt, run.worker) == (entry["attempt"], worker) and run.how != "end"
            for run in runs
        ):
            said.append(f"attempt {entry['attempt']} {outcome}, its handler did not")
    return said


def _repeats(record: Record, runs: list[Run], book: Book, account: Account) -> list[str]:
    """The runs beside the last: each has its fault, and what the database knows of it fits."""
    said: list[str] = []
    noted = {(entry["attempt"], entry["worker_id"]): entry for entry in record.attempts}
    for run in runs:
        if _is_last(record, run):
            continue
        entry = noted.get((run.attempt, run.worker))
        why = explanation(run, book)
        if why is None:
            said.append(f"attempt {run.attempt} of {run.pid} ran again without a reason")
            continue
        account.repeated[why] += 1
        spends = SPENDS.get(why, True)
        if spends is not None and spends is not (entry is not None):
            said.append(f"attempt {run.attempt} was {why}; its history says {entry}")
    return said


def _last(record: Record, runs: list[Run]) -> list[str]:
    """The run that the job's end came from: it ended, and nobody ran after it."""
    if record.state != "done":
        return []
    last = next((run for run in runs if _is_last(record, run)), None)
    if last is None:
        return [f"done in attempt {record.attempt} of {record.worker}, which never ran"]
    # The commit of an effect ends the job, whatever becomes of its handler after that.
    if last.how != "end" and record.task != EFFECT:
        return [f"done, and its handler did not come to its end ({last.how})"]
    if record.result is not None and record.result != [last.attempt, last.pid]:
        return [f"done by attempt {last.attempt} of {last.pid}, with the result {record.result}"]
    return [
        f"done in attempt {record.attempt}, after attempt {run.attempt} had begun"
        for run in runs
        if run.attempt > record.attempt
    ]


def _rows(record: Record) -> list[str]:
    """What was written in one transaction with the job, at its one end or the other."""
    said: list[str] = []
    wanted = int(record.task == EFFECT and record.state == "done")
    if record.effects != wanted:
        said.append(f"{record.state}, with {record.effects} effects instead of {wanted}")
    if record.orders != int(record.key.startswith("t")):
        said.append(f"has {record.orders} orders")
    return said


def _is_last(record: Record, run: Run) -> bool:
    return record.state == "done" and (run.attempt, run.worker) == (record.attempt, record.worker)


def explanation(run: Run, book: Book) -> str | None:
    """Find what happened to a run, that its job had to run once more."""
    if run.how == "fail":
        return "failed"
    hits = [fault for fault in book.faults if fault.hit == run.pid]
    window = run.ended + UNWRITTEN_SECONDS
    during = {
        fault.kind
        for fault in hits
        if run.began - STALE_SECONDS.get(fault.kind, 0.0) <= fault.until and fault.at <= window
    }
    for kind in SPENDS:
        if kind in during and kind != "stopped":
            return kind
    told = any(fault.kind == "stopped" and fault.at <= run.ended for fault in hits)
    return "stopped" if run.how == "cut" and told else None
