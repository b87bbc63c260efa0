"""What becomes of jobs with keys, against a model of a few lines, whatever happened before."""

from __future__ import annotations

import itertools
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soniq.errors import DuplicateJob
from soniq.job.record import NewJob
from soniq.job.unique import STATES

from .desk import Desk
from .test_keys import WORKER, put, unique_job

TASKS = itertools.count()

_asked = st.fixed_dictionaries(
    {
        "key": st.sampled_from("ab"),
        "states": st.sets(st.sampled_from(STATES), min_size=1).map(
            lambda some: tuple(state for state in STATES if state in some)
        ),
        "seconds": st.sampled_from([None, None, 3600.0]),
        "conflict": st.sampled_from(["skip", "skip", "replace", "replace", "raise"]),
        "due": st.sampled_from([None, 3600.0]),
        "n": st.integers(1, 9),
    }
)
# Of one kind: those are placed together rather than one after another.
_alike = st.builds(
    lambda rule, keys: [{**rule, "key": key, "n": n} for n, key in enumerate(keys)],
    st.fixed_dictionaries(
        {
            "states": st.sampled_from([STATES, STATES[:2]]),
            "seconds": st.sampled_from([None, None, 3600.0]),
            "conflict": st.sampled_from(["skip", "skip", "raise"]),
            "due": st.sampled_from([None, 3600.0]),
        }
    ),
    st.lists(st.sampled_from("abc"), min_size=2, max_size=5),
)
_steps = st.one_of(
    st.lists(_asked, min_size=1, max_size=5),
    _alike,
    st.tuples(st.sampled_from(["begin", "come back", "end"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["unique_for is over"]), st.sampled_from("ab")),
)


@dataclass
class Model:
    """Live jobs and the keys they have."""

    live: dict[str, tuple[str, int]] = field(default_factory=dict)
    holders: dict[str, list[str]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    def enqueue(self, job: NewJob, asked: dict[str, Any]) -> tuple[str, str]:
        key = asked["key"]
        state, n = "scheduled" if asked["due"] else "queued", asked["n"]
        standing = self._standing(key, asked["states"])
        if standing is None:
            ours = [each for each in self.holders.get(key, []) if each in self.live]
            self.holders[key] = [*ours, job.id]
            self.kept = self.kept - {key} | ({key} if asked["seconds"] else set())
            self.live[job.id] = state, n
            return job.id, "enqueued"
        if asked["conflict"] == "raise":
            return standing, "held"
        if asked["conflict"] == "replace" and self._waits(standing):
            self.live[standing] = state, self.live[standing][1] + n
            return standing, "replaced"
        return standing, "existing"

    def _standing(self, key: str, states: tuple[str, ...]) -> str | None:
        holders, kept = self.holders.get(key, []), key in self.kept
        able = [h for h in holders if h in self.live and (kept or self.live[h][0] in states)]
        if able:
            return max(able, key=lambda each: (self._waits(each), each))
        return holders[-1] if kept else None

    def _waits(self, job_id: str) -> bool:
        return self.live.get(job_id, ("", 0))[0] in {"scheduled", "queued"}


class Bench:
    """The database beside the model, with a task of its own."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.model, self.task = desk, Model(), f"task {next(TASKS)}"

    def enqueue(self, wanted: list[dict[str, Any]]) -> None:
        given = [self._job(**asked) for asked in wanted]
        after, expected = deepcopy(self.model), []
        for job, asked in zip(given, wanted, strict=True):
            expected.append(after.enqueue(job, asked))
            if expected[-1][1] == "held":  # none of all was stored
                with pytest.raises(DuplicateJob) as refused:
                    put(self.desk, *given)
                assert refused.value.job_id == expected[-1][0]
                return
        self.model = after
        made = put(self.desk, *given)
        assert list(zip(made, made.outcomes, strict=True)) == expected

    def _job(self, key: str, n: int, **rule: Any) -> NewJob:
        merge = {"merge": (("n", "sum"),)} if rule["conflict"] == "replace" else {}
        return unique_job(key, args={"n": n}, task=self.task, **rule, **merge)

    def happen(self, what: str, which: Any) -> None:
        if what == "unique_for is over":
            self.model.kept.discard(which)
            over = "UPDATE {soniq}.keys SET until = now() WHERE task = %s AND key = %s"
            self.desk.sql(over, self.task, f"k:{which}")
            return
        live = self.model.live
        runs = what == "come back"
        able = [each for each in live if (live[each][0] == "processing") == runs or what == "end"]
        if not able:
            return
        job_id = able[which % len(able)]
        if what == "end":
            del live[job_id]
            self.desk.sql("DELETE FROM {soniq}.jobs WHERE id = %s", job_id)
        elif runs:
            live[job_id] = "queued", live[job_id][1]
            back = "UPDATE {soniq}.jobs SET state = 'queued', worker_id = NULL WHERE id = %s"
            self.desk.sql(back, job_id)
        else:
            live[job_id] = "processing", live[job_id][1]
            begin = "UPDATE {soniq}.jobs SET state = 'processing', worker_id = %s WHERE id = %s"
            self.desk.sql(begin, WORKER, job_id)

    def check(self) -> None:
        stored = self.desk.sql(
            "SELECT CAST(id AS text), state, CAST(args ->> 'n' AS integer) FROM {soniq}.jobs "
            "WHERE task = %s",
            self.task,
        )
        assert {job_id: (state, n) for job_id, state, n in stored} == self.model.live


def test_outcomes_are_those_of_the_model(desk: Desk) -> None:
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.lists(_steps, min_size=1, max_size=12))
    def run(steps: list[Any]) -> None:
        bench = Bench(desk)
        for step in steps:
            if isinstance(step, list):
                bench.enqueue(step)
            else:
                bench.happen(*step)
            bench.check()

    run()
