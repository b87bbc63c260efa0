"""The admin: looks at jobs, dead letters, queues and workers; changes are asked of the client."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Left

from ...job.rate import Rate
from .admin_base import ReadOnly, RecordAdmin
from .clients import client
from .models import DeadLetter, FinishedJob, Gate, Job, Queue, Schedule, Worker


@admin.register(Job)
class JobAdmin(RecordAdmin):
    """Jobs that wait or run."""

    list_display = ("id", "task", "queue", "state", "priority", "attempt", "scheduled_at")
    list_filter = ("state", *RecordAdmin.list_filter)
    actions = ("retry", "cancel", "pause_queues")

    @admin.action(description="Run now", permissions=["retry"])
    def retry(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Run scheduled jobs now."""
        self._each(request, queryset, client().sync.retry_job, "sent to run now")

    @admin.action(description="Cancel", permissions=["cancel"])
    def cancel(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Cancel waiting jobs, and ask running ones to stop."""
        self._each(request, queryset, client().sync.cancel_job, "cancelled")

    def has_retry_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "retry")

    @admin.action(description="Pause their queues", permissions=["pause"])
    def pause_queues(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Have workers leave the queues of these jobs alone; a queue without a say has no row."""
        names = sorted(set(queryset.values_list("queue", flat=True)))
        self._each(request, [Queue(name=name) for name in names], _paused, "paused")

    def has_cancel_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "cancel")

    def has_pause_permission(self, request: Any) -> bool:
        """Tell who may: whoever may pause queues."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.pause_queue"))


@admin.register(FinishedJob)
class FinishedJobAdmin(RecordAdmin):
    """Jobs that are done, or were cancelled."""

    list_display = ("id", "task", "queue", "state", "attempt", "finished_at")
    list_filter = ("state", *RecordAdmin.list_filter)
    actions = ("retry",)

    @admin.action(description="Run again", permissions=["retry"])
    def retry(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Run them again, as new jobs."""
        self._each(request, queryset, client().sync.retry_job, "sent to run again")

    def has_retry_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "retry")


@admin.register(DeadLetter)
class DeadLetterAdmin(RecordAdmin):
    """Jobs that used up their attempts, or were refused."""

    list_display = ("id", "task", "queue", "reason", "error", "attempt", "died_at", "replayed_at")
    actions = ("replay",)

    def get_queryset(self, request: Any) -> QuerySet[Any]:
        """Read what the last attempt failed with, too."""
        # Left: the list shows a line; the page of the letter has all of it.
        return super().get_queryset(request).annotate(error=Left(KT("attempts__-1__error"), 120))

    @admin.display(description="error")
    def error(self, row: Any) -> str:
        """Show what the last attempt failed with."""
        return row.error or "-"

    @admin.action(description="Replay", permissions=["replay"])
    def replay(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Make new jobs of them; the letters stay."""
        self._each(request, queryset, client().sync.dead_letter.replay, "replayed")

    def has_replay_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "replay")


@admin.register(Queue)
class QueueAdmin(ReadOnly):
    """Queues that somebody said something about."""

    list_display = (
        "name", "paused", "paused_until", "concurrency", "rate", "max_depth", "on_full",
        "aging_seconds", "changed_at",
    )  # fmt: skip
    list_filter = ("paused",)
    search_fields = ("name",)
    ordering = ("name",)
    actions = ("pause", "resume")

    @admin.display(description="rate")
    def rate(self, row: Any) -> str:
        """Show how many may start in which time."""
        return "-" if row.rate_count is None else str(Rate(row.rate_count, row.rate_seconds))

    @admin.action(description="Pause", permissions=["pause"])
    def pause(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Have workers leave them alone until they are resumed."""
        self._each(request, queryset, _paused, "paused")

    @admin.action(description="Resume", permissions=["pause"])
    def resume(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Have workers take from them again."""
        not_paused = "it was not paused"
        self._each(request, queryset, client().sync.queues.resume, "resumed", not_paused)

    def has_pause_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "pause")


@admin.register(Gate)
class GateAdmin(ReadOnly):
    """Limits of tasks, as code declared them last."""

    list_display = (
        "task", "concurrency", "key_concurrency", "rate", "breaker", "closed_until", "declared_at",
    )  # fmt: skip
    search_fields = ("task",)
    ordering = ("task",)

    def get_queryset(self, request: Any) -> QuerySet[Any]:
        """Leave out what is counted for single keys: they come and go with their jobs."""
        return super().get_queryset(request).filter(key="")

    @admin.display(description="rate")
    def rate(self, row: Any) -> str:
        """Show how far apart jobs start, and how many may at once after a rest."""
        if row.rate_seconds is None:
            return "-"
        by_key = ", by key" if row.rate_by_key else ""
        return f"one in {row.rate_seconds:g} s, {row.rate_burst} at once{by_key}"

    @admin.display(description="circuit breaker")
    def breaker(self, row: Any) -> str:
        """Show what closes the gate, and for how long."""
        if row.breaker_failures is None:
            return "-"
        by_key = ", by key" if row.breaker_by_key else ""
        within = f"{row.breaker_failures} failures in {row.breaker_window:g} s"
        return f"{within}: {row.breaker_pause:g} s of pause{by_key}"


@admin.register(Schedule)
class ScheduleAdmin(ReadOnly):
    """Schedules: those that code declares, and users' own."""

    list_display = ("name", "task", "when", "timezone", "state", "owner", "next_run", "last_run")
    list_filter = ("owner", "paused")
    search_fields = ("name", "task")
    ordering = ("name",)
    actions = ("pause", "resume", "run")

    @admin.display(description="when")
    def when(self, row: Any) -> str:
        """Show the cron expression, or the interval."""
        return row.cron or f"every {row.every_seconds:g} s"

    @admin.display(description="state")
    def state(self, row: Any) -> str:
        """Show whether it runs."""
        if row.retired_at is not None:
            return "retired"
        return "paused" if row.paused else "active"

    @admin.action(description="Pause", permissions=["pause"])
    def pause(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Leave them alone until they are resumed."""
        paused = "it was paused already"
        self._each(request, queryset, client().sync.scheduler.pause, "paused", paused)

    @admin.action(description="Resume", permissions=["pause"])
    def resume(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Go on from their next moments."""
        not_paused = "it was not paused"
        self._each(request, queryset, client().sync.scheduler.resume, "resumed", not_paused)

    @admin.action(description="Run now", permissions=["run"])
    def run(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Enqueue their jobs now, beside their moments."""
        self._each(request, queryset, client().sync.scheduler.run_now, "sent to run now")

    def has_pause_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "pause")

    def has_run_permission(self, request: Any) -> bool:
        """Tell who may."""
        return self.may(request, "run")

    def delete_model(self, request: Any, obj: Any) -> None:
        """Forget one, unless code declares it."""
        self.delete_queryset(request, [obj])

    def delete_queryset(self, request: Any, queryset: Any) -> None:
        """Forget several, but those that code declares."""
        self._each(request, queryset, _removed, "removed")


@admin.register(Worker)
class WorkerAdmin(ReadOnly):
    """Workers that live."""

    list_display = ("name", "state", "running", "concurrency", "queues", "version", "seen_at")


def _paused(name: str) -> bool:
    client().sync.queues.pause(name)
    return True


def _removed(name: str) -> bool:
    client().sync.scheduler.remove(name)
    return True
