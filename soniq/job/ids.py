"""Ids of jobs: version 7 UUIDs, made in the client, so that even a bulk load knows its ids."""

from __future__ import annotations

import time
from random import getrandbits
from uuid import UUID

from ..errors import UsageError, shown


def new_id() -> str:
    """Make an id that sorts by the moment it was made.

    48 bits of milliseconds, 12 bits of their fraction, 62 bits of chance (from `random`,
    which seeds itself anew after a fork: ids need to be unique, not secret).

    Source: RFC 9562, section 5.7 and method 3 of section 6.2.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    text = f"{milliseconds:012x}7{fraction:03x}{1 << 63 | getrandbits(62):016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def checked_id(job_id: object) -> str:
    """Return the id in its canonical form.

    Raises:
        UsageError: It is no UUID, so no job can have it.
    """
    try:
        return str(job_id if isinstance(job_id, UUID) else UUID(job_id))  # type: ignore[arg-type]
    except (ValueError, AttributeError, TypeError):
        raise UsageError(
            f"{shown(job_id)} is not a job id. Ids are UUIDs, as enqueue() returns them."
        ) from None
