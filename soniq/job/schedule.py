"""A schedule: what code or a user asks for, and what the database keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from .record import NewJob, Placement, Record, moment
from .timing import Cron, Every, Timing
from .unique import Unique

CatchUp: TypeAlias = Literal["one", "all", "skip"]
Overlap: TypeAlias = Literal["allow", "skip", "queue"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How a schedule runs, whatever it runs; all checked.

    Attributes:
        timing: How often.
        timezone: The IANA name of the zone whose clock counts.
        jitter: Each run is put off by up to so many seconds, by chance that is the same for all.
        catch_up: What becomes of moments that passed while no scheduler ran.
        catch_up_max: With `all`, how many of them at most; the latest.
        overlap: What to do while the job before has not ended.
    """

    timing: Timing
    timezone: str = "UTC"
    jitter: float = 0.0
    catch_up: CatchUp = "one"
    catch_up_max: int = 100
    overlap: Overlap = "allow"


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule as it is asked for.

    Attributes:
        name: What it is called, once in a database.
        job: What it enqueues; its id is not used.
        rules: When, and how.
        paused: Whether it begins paused.
    """

    name: str
    job: NewJob
    rules: Rules
    paused: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Schedule(Record):
    """A schedule as the database keeps it.

    Attributes:
        name: What it is called.
        task: The name of the task it enqueues.
        args: The arguments of its jobs, by name.
        queue: Where its jobs go.
        priority: Theirs.
        max_attempts: Runs each of them may have.
        timeout: Seconds an attempt may take; None leaves it to the task.
        tags: Words its jobs are given, beside `schedule:NAME`.
        options: What else is kept of how its jobs are stored.
        cron: Its expression, if it has one.
        every: Its interval in seconds, if it has one.
        timezone: The IANA name of the zone whose clock counts.
        jitter: Each run is put off by up to so many seconds.
        catch_up: `one`, `all` or `skip`.
        catch_up_max: With `all`, how many moments are made up for at most.
        overlap: `allow`, `skip` or `queue`.
        owner: `code` declared it, or a `user` made it.
        paused: Whether it is left alone.
        retired_at: When the code that declared it was gone; None is not.
        moment: The next moment it stands for.
        next_run: When that moment's job is made: the moment, and what jitter adds.
        waiting: Whether that moment is past, and waits for the job before to end.
        last_moment: The last moment for which a job was made.
        last_run: When that was.
        last_job_id: The job that was made last.
        runs: How many were made.
        created_at: When it was first seen.
        changed_at: When somebody last changed it.
        revision: Grows with every change, by whomever.
    """

    name: str
    task: str
    args: dict[str, Any]
    queue: str
    priority: int
    max_attempts: int
    timeout: float | None
    tags: tuple[str, ...] | None
    options: Mapping[str, Any] | None
    cron: str | None
    every: float | None
    timezone: str
    jitter: float
    catch_up: str
    catch_up_max: int
    overlap: str
    owner: str
    paused: bool
    retired_at: datetime | None
    moment: datetime
    next_run: datetime
    waiting: bool
    last_moment: datetime | None
    last_run: datetime | None
    last_job_id: str | None
    runs: int
    created_at: datetime
    changed_at: datetime
    revision: int

    @property
    def timing(self) -> Timing:
        """How often it runs.

        Raises:
            InvalidOption: The database has something that cannot be read here.
        """
        return Every(self.every or 0) if self.cron is None else Cron(self.cron)

    @property
    def state(self) -> str:
        """`active`, `paused` or `retired`."""
        if self.retired_at is not None:
            return "retired"
        return "paused" if self.paused else "active"

    @property
    def unique(self) -> Unique | None:
        """What makes one of its jobs the same as another; None is nothing."""
        return _unique((self.options or {}).get("unique"))

    @property
    def placement(self) -> Placement:
        """How its jobs are stored, but for their moments."""
        return Placement(
            task=self.task,
            queue=self.queue,
            priority=self.priority,
            due=None,
            max_attempts=self.max_attempts,
            timeout=self.timeout,
            tags=(*(self.tags or ()), f"schedule:{self.name}"),
            unique=self.unique,
            gate=(self.options or {}).get("gate"),
        )

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Schedule:
        """Read a row that the database wrote as a JSON object."""
        return cls(
            name=data["name"],
            task=data["task"],
            args=data["args"],
            queue=data["queue"],
            priority=data["priority"],
            max_attempts=data["max_attempts"],
            timeout=data["timeout_seconds"],
            tags=None if data["tags"] is None else tuple(data["tags"]),
            options=data["options"],
            cron=data["cron"],
            every=data["every_seconds"],
            timezone=data["timezone"],
            jitter=float(data["jitter_seconds"]),
            catch_up=data["catch_up"],
            catch_up_max=data["catch_up_max"],
            overlap=data["overlap"],
            owner=data["owner"],
            paused=data["paused"],
            retired_at=moment(data["retired_at"]),
            moment=datetime.fromisoformat(data["moment"]),
            next_run=datetime.fromisoformat(data["next_run"]),
            waiting=data["waiting"],
            last_moment=moment(data["last_moment"]),
            last_run=moment(data["last_run"]),
            last_job_id=data["last_job_id"],
            runs=data["runs"],
            created_at=datetime.fromisoformat(data["created_at"]),
            changed_at=datetime.fromisoformat(data["changed_at"]),
            revision=data["revision"],
        )


def kept_options(placement: Placement) -> dict[str, Any] | None:
    """Write what else is kept of how a schedule's jobs are stored; None if nothing is."""
    kept: dict[str, Any] = {}
    if (unique := placement.unique) is not None:
        kept["unique"] = {**asdict(unique), "merge": dict(unique.merge)}
    if placement.gate is not None:
        kept["gate"] = placement.gate
    return kept or None


def _unique(kept: Mapping[str, Any] | None) -> Unique | None:
    if kept is None:
        return None
    return Unique(
        key=kept["key"],
        states=tuple(kept["states"]),
        seconds=kept["seconds"],
        conflict=kept["conflict"],
        merge=tuple(kept["merge"].items()),
        limit=kept["limit"],
    )
