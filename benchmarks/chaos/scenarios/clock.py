"""Clocks of workers and producers that step, and zones that change theirs."""

from __future__ import annotations

import glob
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio

from soniq import SoniqSync
from soniq.job.task import TaskRef

from ..stand import Stand
from ._scenario import scenario

STEPS = ("+5h", "-7h", "+26h", "-1h")
DELAY_SECONDS = 1.0
LATE_SECONDS = 20.0  # on a busy machine; a clock that counted would be hours off
LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
ZONE = "Europe/Berlin"


def _missing() -> str | None:
    if _library() is None:
        return "libfaketime is not installed (apt-get install faketime)"
    return None


def _library() -> str | None:
    return next((file for pattern in LIBRARIES for file in glob.glob(pattern)), None)


@scenario(10, hurts=("stepped",), short=5, long=60, needs=_missing)
async def clock(stand: Stand) -> None:
    """Clocks of workers and producers that jump by hours, both ways; the database's rules."""
    stand.server.configure(timezone=ZONE)
    now = stand.folder / "clock"
    now.write_text("+0")
    env = {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(now),
        "FAKETIME_CACHE_DURATION": "1",  # seconds between looks at the file
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "TZ": "America/New_York",
    }
    _see_that_zones_are_understood(stand)
    crew = await stand.crew(2, env=env)
    delayed = 0
    async with stand.producing(env=env) as producers:
        for step in itertools.cycle(STEPS):
            if not producers.alive:
                break
            stand.ledger.fault("stepped")
            _step(now, step)
            _delay(stand, f"delayed-{delayed}")
            delayed += 1
            await anyio.sleep(0.7)
    await stand.settled()
    _step(now, "+0")
    await stand.dismiss(*crew)
    _see_that_delays_were_kept(stand, delayed)


def _step(now: Path, by: str) -> None:
    fresh = now.with_suffix(".new")
    fresh.write_text(by)
    fresh.rename(now)


def _delay(stand: Stand, key: str) -> None:
    with SoniqSync(database_url=stand.url, enqueue_validation="none") as app:
        # Before the others: how long those wait is not what this is about.
        note = TaskRef("note")
        job = app.enqueue(note, key=key, seconds=0, delay=DELAY_SECONDS, priority=1)
    stand.ledger.note("ack", key=key, job=job)


def _see_that_delays_were_kept(stand: Stand, count: int) -> None:
    book = stand.book()
    for number in range(count):
        key = f"delayed-{number}"
        for run in book.runs.get(key, []):
            waited = run.began - book.acknowledged_at[key]
            if not DELAY_SECONDS - 0.1 <= waited <= DELAY_SECONDS + LATE_SECONDS:
                stand.problems.append(f"{key}: waited {waited:.2f} s instead of {DELAY_SECONDS}")


def _see_that_zones_are_understood(stand: Stand) -> None:
    """The hour that comes twice, the one that does not come, and UTC: each is one moment."""
    berlin = ZoneInfo(ZONE)
    autumn, spring = datetime(2040, 10, 28, 2, 30), datetime(2040, 3, 25, 2, 30)  # noqa: DTZ001
    moments = [autumn.replace(tzinfo=berlin, fold=fold) for fold in (0, 1)]
    moments += [spring.replace(tzinfo=berlin), datetime(2040, 1, 1, tzinfo=UTC)]
    with SoniqSync(database_url=stand.url, enqueue_validation="none") as app:
        for moment in moments:
            job_id = app.enqueue(TaskRef("note"), key="later", seconds=0, scheduled_at=moment)
            kept = app.get_job(job_id).scheduled_at
            if kept != moment.astimezone(UTC):
                stand.problems.append(f"{moment} is kept as {kept}")
            app.delete_job(job_id)
    if moments[1].astimezone(UTC) - moments[0].astimezone(UTC) != timedelta(hours=1):
        stand.problems.append("the hour that comes twice came once")
