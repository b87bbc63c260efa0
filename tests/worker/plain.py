"""Handlers of a module whose annotations are objects, not text: no `from __future__` here."""

from soniq.job import JobContext


async def context_first(ctx: JobContext, word: str):
    return [ctx.job_id, word]


def context_last(word: str, *, run: JobContext):
    return [run.job_id, word]
