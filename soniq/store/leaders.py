"""Who does what only one worker should do: a lease for each duty."""

from __future__ import annotations

from ..steps import Query

LEAD = """
    INSERT INTO {soniq}.leaders AS l (duty, worker_id, expires_at)
    VALUES (CAST(%(duty)s AS text), CAST(%(worker)s AS uuid),
            statement_timestamp() + make_interval(secs => CAST(%(lease)s AS double precision)))
    ON CONFLICT (duty) DO UPDATE SET
        worker_id = excluded.worker_id, expires_at = excluded.expires_at
    WHERE l.worker_id = excluded.worker_id OR l.expires_at < statement_timestamp()
    RETURNING duty"""

RESIGN = """
    DELETE FROM {soniq}.leaders
    WHERE duty = CAST(%(duty)s AS text) AND worker_id = CAST(%(worker)s AS uuid)"""


def lead(duty: str, worker_id: str, lease_seconds: float) -> Query[bool]:
    """Take or renew the lease; a row comes back only to whoever has it."""
    params = {"duty": duty, "worker": worker_id, "lease": lease_seconds}
    return Query(LEAD, params, lambda row: True)


def resign(duty: str, worker_id: str) -> Query[None]:
    """Give the lease up, so that nobody has to wait for its end."""
    return Query(RESIGN, {"duty": duty, "worker": worker_id})
