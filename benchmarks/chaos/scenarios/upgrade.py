"""Two releases that work side by side on one database."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..postgres import DATABASE, TABLES
from ..stand import ROOT, Stand
from ._scenario import scenario


def _missing() -> str | None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "there is no git checkout here to take the last release from"
    return None


def last_release() -> str:
    """Name the last tag before this commit; before the first one, this commit itself."""
    told = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "HEAD^"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "HEAD"


def checkout(folder: Path) -> Path:
    """Put the last release's package into a folder, beside this commit's handlers and producers."""
    archive = subprocess.run(
        ["git", "archive", last_release(), "soniq"], cwd=ROOT, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


@scenario(13, short=5, long=60, needs=_missing)
async def upgrade(stand: Stand) -> None:
    """The last release's workers and producers, and this one's, on the schema of this one."""
    folder = stand.folder / "last"
    folder.mkdir()
    last = checkout(folder)
    stand.server.execute(f"DROP DATABASE {DATABASE}")
    stand.server.execute(f"CREATE DATABASE {DATABASE}")
    await _set_up(stand, last)
    await stand.ask(TABLES)
    old = await stand.crew(2, cwd=last)
    jobs = stand.jobs
    stand.jobs, stand.seconds = jobs // 2, stand.seconds / 2
    async with stand.producing(cwd=last):
        await _set_up(stand, ROOT)
        new = await stand.crew(2)
    stand.jobs = jobs - stand.jobs
    async with stand.producing():
        pass
    await stand.dismiss(*old)
    await stand.settled()
    await stand.dismiss(*new)
    _see_that_both_worked(stand, last, [hand.pid for hand in old])


async def _set_up(stand: Stand, release: Path) -> None:
    hand = stand.run("-m", "soniq", "setup", cwd=release)
    if await hand.ended(30):
        stand.problems.append(f"setup of {release} failed: {hand.log.read_text()[-500:]}")


def _see_that_both_worked(stand: Stand, last: Path, old: list[int]) -> None:
    book = stand.book()
    by_old = [run for runs in book.runs.values() for run in runs if run.pid in old]
    by_new = [run for runs in book.runs.values() for run in runs if run.pid not in old]
    if not by_old or not by_new:
        stand.problems.append(f"{len(by_old)} runs by the last release, {len(by_new)} by this one")
    for line in stand.ledger.lines():
        if line["what"] == "worker" and (line["pid"] in old) is not (str(last) in line["soniq"]):
            stand.problems.append(f"worker {line['pid']} ran {line['soniq']}")
