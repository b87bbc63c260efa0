"""What the statements of `store/` mean, in plain Python: a few dictionaries instead of tables.

Rows are values; a table of them is what is committed, and over it lies what each open transaction
changed. A row that somebody's open transaction changed is locked for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

# When a job is due: units of time from now, then the order in which its moments were written.
Due: TypeAlias = "tuple[int, int]"
# Of an attempt that went wrong: its number, outcome, error and worker.
Note: TypeAlias = "tuple[int, str, str | None, str | None]"
Lease: TypeAlias = "tuple[str, int]"

ENDED = {"done", "cancelled", "dead_letter"}


@dataclass(frozen=True)
class Row:
    """A job, wherever it lies; `due` is forgotten when it ends."""

    state: str
    task: str
    queue: str
    priority: int
    max_attempts: int
    due: Due | None
    attempt: int = 0
    snoozes: int = 0
    cancel_requested: bool = False
    worker: str | None = None
    begun: bool = False
    notes: tuple[Note, ...] = ()
    result: str | None = None
    reason: str | None = None
    replayed_as: str | None = None

    def noted(self, outcome: str, error: str | None) -> Row:
        """Note that the attempt went wrong."""
        return replace(self, notes=(*self.notes, (self.attempt, outcome, error, self.worker)))

    def waiting(self, due: Due | None, *, spent: bool, begun: bool) -> Row:
        """Give the job back to the queue, or to its moment."""
        return replace(
            self,
            state="scheduled" if due and due[0] > 0 else "queued",
            due=due,
            worker=None,
            attempt=self.attempt if spent else self.attempt - 1,
            begun=begun and self.begun,
        )

    def ended(self, state: str, *, result: str | None = None, reason: str | None = None) -> Row:
        """Move the job to history, or to the dead letters."""
        # Neither table tells of snoozes or of wishes to cancel.
        kept = replace(self, due=None, snoozes=0, cancel_requested=False)
        return replace(kept, state=state, result=result, reason=reason)

    def renewed(self, tick: int) -> Row:
        """Make the new job of one that ended."""
        return Row("queued", self.task, self.queue, self.priority, self.max_attempts, (0, tick))


@dataclass
class Model:
    """All jobs, as committed and as each open transaction sees them.

    Attributes:
        committed: Jobs by id.
        changes: By the name of who has a transaction open: what it changed; None is deleted.
        live: Workers that are not silent.
        paused: Queues nobody takes from.
        tick: Grows with each statement, as the server's clock does.
    """

    committed: dict[str, Row] = field(default_factory=dict)
    changes: dict[str, dict[str, Row | None]] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    tick: int = 0

    def begin(self, by: str) -> None:
        """Open a transaction."""
        self.changes[by] = {}

    def end(self, by: str, *, commit: bool) -> None:
        """Close it."""
        for job_id, row in self.changes.pop(by).items():
            if commit:
                self._put(self.committed, job_id, row)

    def seen(self, by: str) -> dict[str, Row]:
        """Give all jobs as they look to somebody."""
        rows = dict(self.committed)
        for job_id, row in self.changes.get(by, {}).items():
            self._put(rows, job_id, row)
        return rows

    def locked(self, by: str) -> set[str]:
        """Name the jobs that somebody else's transaction changed."""
        return {job_id for who, changed in self.changes.items() if who != by for job_id in changed}

    def write(self, by: str, job_id: str, row: Row | None) -> None:
        """Change a job; None deletes it."""
        if by in self.changes:
            self.changes[by][job_id] = row
        else:
            self._put(self.committed, job_id, row)

    @staticmethod
    def _put(rows: dict[str, Row], job_id: str, row: Row | None) -> None:
        if row is None:
            rows.pop(job_id, None)
        else:
            rows[job_id] = row

    # Who asks for something

    def enqueue(self, by: str, new: Mapping[str, Row]) -> None:
        """Store jobs."""
        for job_id, row in new.items():
            self.write(by, job_id, row)

    def cancel(self, by: str, job_id: str) -> bool:
        """Cancel one that waits, or ask one that runs to stop."""
        row = self.seen(by).get(job_id)
        if row is None or row.state in ENDED:
            return False
        if row.state == "processing":
            self.write(by, job_id, replace(row, cancel_requested=True))
        else:
            self.write(by, job_id, row.ended("cancelled", reason="cancelled before it ran"))
        return True

    def delete(self, by: str, job_id: str) -> bool:
        """Forget one that does not run."""
        row = self.seen(by).get(job_id)
        if row is None or row.state == "processing":
            return False
        self.write(by, job_id, None)
        return True

    def reschedule(self, by: str, job_id: str, units: int) -> bool:
        """Move one that waits to another moment."""
        row = self.seen(by).get(job_id)
        if row is None or row.state not in {"scheduled", "queued"}:
            return False
        self.write(by, job_id, row.waiting((units, self.tick), spent=True, begun=True))
        return True

    def retry(self, by: str, job_id: str, answer: str) -> str:
        """Run one now, or an ended one once more: then the answer is the new job's id."""
        row = self.seen(by).get(job_id)
        if row is None:
            return "JobNotFound"
        if row.state == "scheduled":
            self.write(by, job_id, replace(row, state="queued", due=(0, self.tick)))
            return job_id
        if row.state == "dead_letter":
            return self.replay(by, job_id, answer)
        if row.state not in ENDED:
            return "InvalidTransition"
        return self._renew(by, row, answer)

    def replay(self, by: str, job_id: str, answer: str) -> str:
        """Make a new job of a dead letter, which stays."""
        row = self.seen(by).get(job_id)
        if row is None or row.state != "dead_letter":
            return "JobNotFound"
        self.write(by, job_id, replace(row, replayed_as=answer))
        return self._renew(by, row, answer)

    def _renew(self, by: str, row: Row, answer: str) -> str:
        assert answer not in self.seen(by)
        self.write(by, answer, row.renewed(self.tick))
        return answer

    # What happens by itself

    def stage(self, by: str) -> int:
        """Queue what is due."""
        due = {
            job_id: row
            for job_id, row in self._free(by, "scheduled").items()
            if row.due is not None and row.due[0] <= 0
        }
        for job_id, row in due.items():
            self.write(by, job_id, replace(row, state="queued"))
        return len(due)

    def pass_time(self) -> None:
        """Let one unit of time go by."""
        for job_id, row in self.committed.items():
            if row.due is not None:
                self.committed[job_id] = replace(row, due=(row.due[0] - 1, row.due[1]))

    def rescue(self, by: str) -> dict[str, str]:
        """Take the jobs of silent workers from them; tell what became of each."""
        fates = {}
        for job_id, row in self._free(by, "processing").items():
            if row.worker in self.live:
                continue
            lost = row.noted("worker_lost", f"WorkerLost: worker {row.worker} died or fell silent")
            if row.cancel_requested:
                new = lost.ended("cancelled", reason="cancelled while it ran; its worker died")
            elif row.attempt >= row.max_attempts:
                reason = "all attempts used; the last worker died or fell silent"
                new = lost.ended("dead_letter", reason=reason)
            else:
                new = lost.waiting(row.due, spent=True, begun=False)
            fates[job_id] = new.state
            self.write(by, job_id, new)
        return fates

    # What workers do

    def claim(
        self, by: str, worker: str, numbers: Mapping[str, int], tasks: Sequence[str]
    ) -> dict[str, int]:
        """Take jobs; answer the attempt of each."""
        taken = {}
        queued = self._free(by, "queued")
        for queue, number in numbers.items():
            fits = [
                job_id
                for job_id, row in queued.items()
                if row.queue == queue and row.task in tasks and queue not in self.paused
            ]
            for job_id in sorted(fits, key=lambda each: _place(each, queued[each]))[:number]:
                row = queued[job_id]
                taken[job_id] = row.attempt + 1
                claimed = replace(row, state="processing", worker=worker, begun=True)
                self.write(by, job_id, replace(claimed, attempt=row.attempt + 1))
        return taken

    def _free(self, by: str, state: str) -> dict[str, Row]:
        locked = self.locked(by)
        seen = self.seen(by).items()
        return {each: row for each, row in seen if row.state == state and each not in locked}

    def forgotten(self, by: str, worker: str, known: Iterable[str]) -> set[str]:
        """Give back what the worker holds without knowing."""
        lost = {
            job_id: row
            for job_id, row in self.seen(by).items()
            if row.worker == worker and row.state == "processing" and job_id not in known
        }
        for job_id, row in lost.items():
            self.write(by, job_id, row.waiting(row.due, spent=False, begun=False))
        return set(lost)

    def end_attempts(
        self, by: str, worker: str, leases: Sequence[Lease], how: Callable[[Row], Row]
    ) -> set[str]:
        """Write the end of each attempt that is still held just so."""
        written = set()
        for job_id, attempt in leases:
            row = self.seen(by).get(job_id)
            held = (row.state, row.worker, row.attempt) if row else None
            if row and held == ("processing", worker, attempt):
                self.write(by, job_id, how(row))
                written.add(job_id)
        return written


def _place(job_id: str, row: Row) -> tuple[int, Due, str]:
    assert row.due is not None
    return row.priority, row.due, job_id
