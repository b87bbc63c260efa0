"""The channel on which workers and schedulers are told what is new."""

from __future__ import annotations

from ..steps import Query, Steps

# What is due sooner is told to whoever queues it: an idle worker looks every 5 s.
SOON_SECONDS = 6

NOTIFY = "SELECT CAST(pg_notify({channel}, CAST(%(message)s AS text)) AS text)"

WAKE = "SELECT CAST({soniq}.wake(CAST(%(queue)s AS text), CAST(%(notify)s AS text)) AS text)"


def notify(message: str) -> Steps[None]:
    """Tell everybody who listens."""
    yield from Query(NOTIFY, {"message": message})


def wake(notify: str, queue: str = "*") -> Query[str]:
    """Tell idle workers, if there are any, of work in a queue; `*` is any, or what is due soon."""
    return Query(WAKE, {"queue": queue, "notify": notify}, lambda row: "")
