"""Queues: how they stand, and whether they are paused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..job.record import QueueStats
from ..steps import Query

STATS = """
    WITH live AS (
        SELECT queue,
            count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
            count(*) FILTER (WHERE state = 'queued') AS queued,
            count(*) FILTER (WHERE state = 'processing') AS processing,
            min(scheduled_at) FILTER (WHERE state = 'queued') AS oldest
        FROM {soniq}.jobs GROUP BY queue),
    dead AS (SELECT queue, count(*) AS letters FROM {soniq}.dead_letters GROUP BY queue),
    known AS (
        SELECT queue FROM live UNION SELECT queue FROM dead UNION SELECT name FROM {soniq}.queues)
    SELECT CAST(json_build_array(
        k.queue, coalesce(l.scheduled, 0), coalesce(l.queued, 0), coalesce(l.processing, 0),
        coalesce(d.letters, 0), extract(epoch FROM statement_timestamp() - l.oldest),
        coalesce(q.paused AND (q.paused_until IS NULL OR q.paused_until > statement_timestamp()),
                 false)) AS text)
    FROM known k
    LEFT JOIN live l ON l.queue = k.queue
    LEFT JOIN dead d ON d.queue = k.queue
    LEFT JOIN {soniq}.queues q ON q.name = k.queue
    ORDER BY k.queue"""


def stats() -> Query[QueueStats]:
    """Tell how each queue stands."""
    return Query(STATS, {}, _stats)


def _stats(row: Sequence[Any]) -> QueueStats:
    queue, scheduled, queued, processing, dead, oldest, paused = json.loads(row[0])
    oldest_seconds = None if oldest is None else max(0.0, float(oldest))
    return QueueStats(queue, scheduled, queued, processing, dead, oldest_seconds, paused)
