"""The admin: looks at jobs, dead letters, queues and workers; changes are asked of the client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property
from django.utils.html import format_html

from ...errors import SoniqError
from ...job.rate import Rate
from .clients import client
from .models import DeadLetter, FinishedJob, Job, LiveState, Queue, Schedule, Worker

# Beyond so many rows a count is not worth its price.
COUNTED = 10_000

# Filters offer what the newest rows have: DISTINCT over a large table would read all of it.
LOOKED_AT = 5_000


class BoundedPaginator(Paginator):
    """Counts up to COUNTED rows; what lies beyond is found by filters."""

    @cached_property
    def count(self) -> int:
        """Count, as far as it goes."""
        return int(self.object_list[:COUNTED].count())


def by_values_of(column: str) -> type[admin.SimpleListFilter]:
    """Make a filter by a column that holds names."""

    class Filter(admin.SimpleListFilter):
        title = column
        parameter_name = column

        def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
            rows = model_admin.model.objects.order_by("-pk").values_list(column)[:LOOKED_AT]
            return [(name, name) for name in sorted({name for (name,) in rows})]

        def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{column: self.value()}) if self.value() else queryset

    return Filter


class ReadOnly(admin.ModelAdmin):
    """Rows that nobody adds or edits by hand."""

    show_full_result_count = False
    paginator = BoundedPaginator
    list_per_page = 50

    def get_queryset(self, request: Any) -> QuerySet[Any]:
        """Read from the database that holds the jobs."""
        home = client()._app.home
        alias = getattr(home, "alias", None) or "default"
        return super().get_queryset(request).using(alias)

    def has_add_permission(self, request: Any) -> bool:
        """Refuse: jobs come from code."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """Refuse: rows are looked at."""
        return False

    def may(self, request: Any, action: str) -> bool:
        """Tell whether somebody may do what is no change, addition, deletion or look."""
        opts = self.opts
        return bool(request.user.has_perm(f"{opts.app_label}.{action}_{opts.model_name}"))

    def _each(
        self,
        request: Any,
        rows: Iterable[Any],
        change: Callable[[str], object],
        done: str,
        otherwise: str = "it runs, or is gone",
    ) -> None:
        """Change rows one by one, and tell how many were, and why the others were not."""
        changed, refused = 0, []
        for row in rows:
            try:
                if change(str(row.pk)):
                    changed += 1
                else:
                    refused.append(f"{row.pk}: {otherwise}")
            except SoniqError as error:
                refused.append(str(error))
        if changed:
            self.message_user(request, f"{changed} {done}.", messages.SUCCESS)
        for why in refused[:10]:
            self.message_user(request, f"Not {done}: {why}", messages.WARNING)


class RecordAdmin(ReadOnly):
    """What the tables of jobs have in common."""

    list_filter: tuple[Any, ...] = (by_values_of("queue"), by_values_of("task"))
    search_fields = ("pk",)
    search_help_text = "A job's id"
    ordering = ("-pk",)
    exclude = ("args", "attempts", "result")

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        """Show every column, the JSON ones as text."""
        plain = [f.name for f in self.model._meta.fields if f.name not in self.exclude]
        shown = ["arguments", "failures"]
        return [*plain, *shown, *(["answer"] if hasattr(self.model, "result") else [])]

    @admin.display(description="arguments")
    def arguments(self, row: Any) -> str:
        """Show the arguments."""
        return as_text(row.args)

    @admin.display(description="attempts that failed")
    def failures(self, row: Any) -> str:
        """Show what went wrong."""
        return as_text(row.attempts)

    @admin.display(description="result")
    def answer(self, row: Any) -> str:
        """Show what the handler returned."""
        return as_text(row.result)

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> Any:
        """Find a job by its id; anything else finds nothing."""
        from uuid import UUID

        if not search_term:
            return queryset, False
        try:
            return queryset.filter(pk=UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        """Refuse what runs; the permission decides about the rest."""
        runs = getattr(obj, "state", None) == LiveState.PROCESSING
        return not runs and bool(super().has_delete_permission(request, obj))

    def delete_model(self, request: Any, obj: Any) -> None:
        """Delete one, unless it runs."""
        self._each(request, [obj], self._delete, "deleted")

    def delete_queryset(self, request: Any, queryset: QuerySet[Any]) -> None:
        """Delete several, but those that run."""
        self._each(request, queryset, self._delete, "deleted")

    def _delete(self, job_id: str) -> object:
        return client().sync.delete_job(job_id)


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

    list_display = ("id", "task", "queue", "reason", "attempt", "died_at", "replayed_at")
    actions = ("replay",)

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


def as_text(value: Any) -> str:
    """Write JSON to be read; everything in it is escaped, nothing is run."""
    if value is None:
        return "-"
    return str(format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False)))
