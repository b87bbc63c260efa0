"""What the pages of the admin have in common: they show rows, and ask the client for changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property
from django.utils.html import format_html

from ...errors import SoniqError
from .clients import client
from .models import LiveState

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
        return super().get_queryset(request).using(alias())

    def has_module_permission(self, request: Any) -> bool:
        """Hide what cannot be read: jobs that are in no database of Django's."""
        return alias() is not None and bool(super().has_module_permission(request))

    def has_view_permission(self, request: Any, obj: Any = None) -> bool:
        """Refuse what cannot be read; the permission decides about the rest."""
        return alias() is not None and bool(super().has_view_permission(request, obj))

    def has_add_permission(self, request: Any) -> bool:
        """Refuse: jobs come from code."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """Refuse: rows are looked at."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        """Refuse where nobody can be given the permission: a superuser has it even so."""
        there_is_one = "delete" in self.opts.default_permissions
        return there_is_one and bool(super().has_delete_permission(request, obj))

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

    def get_queryset(self, request: Any) -> QuerySet[Any]:
        """Leave for the page of a job what is large: a list would read it for every row."""
        large = [name for name in self.exclude if hasattr(self.model, name)]
        return super().get_queryset(request).defer(*large)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        """Show every column, the JSON ones as text; first what people look for."""
        plain = [f.name for f in self.model._meta.fields if f.name not in self.exclude]
        shown = ["arguments", "failures", *(["answer"] if hasattr(self.model, "result") else [])]
        first = [name for name in ("id", "task", "queue", "state", "reason") if name in plain]
        return [*first, *shown, *(name for name in plain if name not in first)]

    @admin.display(description="arguments")
    def arguments(self, row: Any) -> str:
        """Show the arguments."""
        return as_text(row.args)

    @admin.display(description="attempts that failed")
    def failures(self, row: Any) -> str:
        """Show what went wrong."""
        return as_story(row.attempts)

    @admin.display(description="result")
    def answer(self, row: Any) -> str:
        """Show what the handler returned."""
        return as_text(row.result)

    def get_search_results(self, request: Any, queryset: Any, search_term: str) -> Any:
        """Find a job by its id; anything else finds nothing."""
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


def alias() -> str | None:
    """Name the entry of DATABASES that holds the jobs, if one does."""
    found: str | None = getattr(client()._app.home, "alias", None)
    return found


_FACTS = {"started_at": "started", "ended_at": "ended", "worker_id": "worker"}

# Long lines are broken: a payload has some, and nobody sees what lies beyond the edge of the page.
_PRE = '<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{}</pre>'


def as_text(value: Any) -> str:
    """Write JSON to be read; everything in it is escaped, nothing is run."""
    if value is None:
        return "-"
    return str(format_html(_PRE, json.dumps(value, indent=2, ensure_ascii=False)))


def as_story(attempts: Any) -> str:
    """Write attempts to be read, the last first, with their tracebacks as Python writes them."""
    if not attempts:
        return "-"
    return str(format_html(_PRE, "\n\n".join(map(_told, reversed(attempts)))))


def _told(attempt: Any) -> str:
    facts = [f", {said} {attempt[name]}" for name, said in _FACTS.items() if attempt.get(name)]
    # A traceback ends with the error.
    why = attempt.get("traceback") or attempt.get("error") or ""
    what = f"attempt {attempt.get('attempt')}: {attempt.get('outcome')}{''.join(facts)}"
    return f"{what}\n{why}".rstrip()
