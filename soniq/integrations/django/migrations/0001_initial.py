"""The tables and functions, and the models that look at them."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

from soniq.integrations.django.models import Names, table
from soniq.integrations.django.schema import ApplySoniq


def job_fields() -> list[tuple[str, Any]]:
    return [
        ("id", models.UUIDField(primary_key=True, serialize=False)),
        ("task", models.TextField()),
        ("queue", models.TextField()),
        ("args", models.JSONField(verbose_name="arguments")),
        ("priority", models.SmallIntegerField()),
        ("attempt", models.IntegerField()),
        ("max_attempts", models.IntegerField()),
        ("scheduled_at", models.DateTimeField()),
        ("created_at", models.DateTimeField()),
        ("started_at", models.DateTimeField(null=True)),
        ("worker_id", models.UUIDField(null=True)),
        ("timeout_seconds", models.FloatField(null=True)),
        ("tags", Names(null=True)),
        ("attempts", models.JSONField(null=True)),
    ]


def options(name: str, *permissions: str, **more: Any) -> dict[str, Any]:
    return {
        "db_table": table(name),
        "managed": False,
        "default_permissions": permissions or ("view",),
        **more,
    }


class Migration(migrations.Migration):
    """Unmanaged models change nothing in the database; the first two operations do."""

    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [
        ApplySoniq("0001_pre_tables"),
        ApplySoniq("0002_pre_functions"),
        migrations.CreateModel(
            "Job",
            [
                *job_fields(),
                (
                    "state",
                    models.TextField(
                        choices=[
                            ("scheduled", "Scheduled"),
                            ("queued", "Queued"),
                            ("processing", "Processing"),
                        ]
                    ),
                ),
                ("snoozes", models.IntegerField()),
                ("cancel_requested", models.BooleanField()),
            ],
            options(
                "jobs",
                "view",
                "delete",
                abstract=False,
                permissions=[
                    ("retry_job", "Can run jobs now"),
                    ("cancel_job", "Can cancel jobs"),
                ],
            ),
        ),
        migrations.CreateModel(
            "FinishedJob",
            [
                *job_fields(),
                (
                    "state",
                    models.TextField(choices=[("done", "Done"), ("cancelled", "Cancelled")]),
                ),
                ("finished_at", models.DateTimeField()),
                ("result", models.JSONField(null=True)),
                ("reason", models.TextField(null=True)),
            ],
            options(
                "history",
                "view",
                "delete",
                abstract=False,
                permissions=[("retry_finishedjob", "Can run finished jobs again")],
            ),
        ),
        migrations.CreateModel(
            "DeadLetter",
            [
                *job_fields(),
                ("died_at", models.DateTimeField()),
                ("reason", models.TextField()),
                ("replayed_at", models.DateTimeField(null=True)),
                ("replayed_as", models.UUIDField(null=True)),
            ],
            options(
                "dead_letters",
                "view",
                "delete",
                abstract=False,
                permissions=[("replay_deadletter", "Can replay dead letters")],
            ),
        ),
        migrations.CreateModel(
            "Queue",
            [
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("paused", models.BooleanField()),
                ("paused_until", models.DateTimeField(null=True)),
                ("changed_at", models.DateTimeField()),
            ],
            options("queues"),
        ),
        migrations.CreateModel(
            "Worker",
            [
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("queues", Names(null=True)),
                ("tasks", Names()),
                ("concurrency", models.IntegerField()),
                ("running", models.IntegerField()),
                ("state", models.TextField()),
                ("idle", models.BooleanField()),
                ("version", models.TextField()),
                ("started_at", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
            ],
            options("workers"),
        ),
    ]
