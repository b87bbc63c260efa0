"""The channel on which workers and schedulers are told what is new."""

from __future__ import annotations

from ..steps import Query, Steps

NOTIFY = "SELECT CAST(pg_notify({channel}, CAST(%(message)s AS text)) AS text)"


def notify(message: str) -> Steps[None]:
    """Tell everybody who listens."""
    yield from Query(NOTIFY, {"message": message})
