"""When a failed job runs again."""

from __future__ import annotations

from ..job.options import RetryRule


def delay(rule: RetryRule, retry: int, *, draw: float) -> float:
    """Choose how long to wait before a retry.

    Args:
        rule: What the task's options say.
        retry: Which retry it is; the first is 1.
        draw: A number from 0 up to 1, for jitter.

    Returns:
        Seconds.

    Raises:
        ValueError: `retry` is below 1.

    Source: equal jitter, half fixed and half chance, from "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015.
    """
    if retry < 1:
        raise ValueError(f"the first retry is 1, not {retry}")
    seconds = rule.delays[min(retry, len(rule.delays)) - 1]
    if rule.backoff:
        # 2**64 seconds is beyond any cap that means something, and still a float.
        seconds = (seconds or 1.0) * 2.0 ** min(retry - 1, 64)
    if rule.max_delay is not None:
        seconds = min(seconds, rule.max_delay)
    seconds = min(seconds, _LONGEST)
    return seconds * (1 + draw) / 2 if rule.jitter else seconds


_LONGEST = 3_155_760_000.0
"""A hundred years: moments beyond cannot all be written."""
