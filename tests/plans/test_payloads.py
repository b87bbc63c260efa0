"""jsonb gives back what the codec wrote, through each way in and each way out."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from values.json_values import same, values

from soniq.job import codec
from soniq.store import bulk, jobs

from .desk import Desk, new_job


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example([1e23, -1.5e300, 5e-324, 2**80, 0.1])
@given(values)
def test_arguments_and_results_come_back_the_same(desk: Desk, value: Any) -> None:
    """jsonb wrote 1e23 out without its exponent, and it was read as an integer."""
    text = codec.encode({"a": value}, limit=1 << 20, what="argument")
    job_id = desk.enqueue(args=text)
    worker = desk.worker()
    desk.ask(bulk.enqueue_many([new_job(args=text)], (), "off"))
    desk.ask(bulk._copy([new_job(args=text)], (), "off", lambda _: None))
    claimed = desk.claim(worker, 3)
    assert len(claimed) == 3
    for job in claimed:
        assert same(codec.decode(job.args), {"a": value})
    result = codec.encode(value, limit=1 << 20, what="result")
    desk.finish(worker, job_id, 1, result)
    job = desk.ask(jobs.get(job_id))
    assert same(job.args, {"a": value})
    assert same(job.result, value)
