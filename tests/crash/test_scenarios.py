"""The short form of `python -m benchmarks.chaos`: every fault, and every job accounted for."""

from __future__ import annotations

import pytest

from benchmarks.chaos import report
from benchmarks.chaos.postgres import Site
from benchmarks.chaos.run import SHORT, play
from benchmarks.chaos.scenarios import SCENARIOS


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_job_is_accounted_for(name: str, site: Site) -> None:
    scenario = SCENARIOS[name]
    if (reason := scenario.needs()) is not None:
        pytest.skip(reason)
    account = play(scenario, site, jobs=SHORT, seconds=scenario.short)
    print(report.line(name, account))
    assert account.balanced, "\n".join(report.problems(account))
