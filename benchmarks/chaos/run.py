"""Play one scenario from its start to its account."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import anyio

from .account import Account, unproved
from .postgres import Site
from .scenarios import Scenario
from .stand import Stand, Unsettled

# Jobs of a scenario in the form for every day, and in the one for a release.
SHORT, LONG = 500, 10_000


def play(scenario: Scenario, site: Site, *, jobs: int, seconds: float) -> Account:
    """Play a scenario with so many jobs over so many seconds."""
    folder = Path(tempfile.mkdtemp(prefix=f"ledger-{scenario.name}-", dir=site.folder))
    began = time.monotonic()
    account = anyio.run(_play, scenario, site, jobs, seconds, folder)
    account.seconds = time.monotonic() - began
    account.problems[:0] = unproved(account, jobs, scenario.hurts)
    if not account.balanced:
        kept = shutil.move(folder, Path(tempfile.gettempdir()) / f"soniq-{folder.name}")
        account.problems.insert(0, f"the ledger and the logs are kept in {kept}")
    return account


async def _play(scenario: Scenario, site: Site, jobs: int, seconds: float, folder: Path) -> Account:
    stand = Stand(site, jobs, seconds, folder)
    try:
        await anyio.to_thread.run_sync(stand.server.start)
        try:
            await scenario.play(stand)
        except* Unsettled as errors:  # some scenarios run tasks of their own
            stand.problems += [str(error) for error in errors.exceptions]
        return await stand.account()
    finally:
        stand.close()
