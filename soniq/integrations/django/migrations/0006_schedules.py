"""Schedules, and the model that looks at them."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.models import Ids, Names, table
from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """The model is unmanaged: only the first operation changes the database."""

    dependencies = [("soniq", "0005_gates")]
    operations = [
        ApplySoniq("0004_pre_schedules"),
        migrations.CreateModel(
            "Schedule",
            [
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("task", models.TextField()),
                ("args", models.JSONField(verbose_name="arguments")),
                ("queue", models.TextField()),
                ("priority", models.SmallIntegerField()),
                ("max_attempts", models.IntegerField()),
                ("timeout_seconds", models.FloatField(null=True)),
                ("tags", Names(null=True)),
                ("options", models.JSONField(null=True)),
                ("cron", models.TextField(null=True)),
                ("every_seconds", models.FloatField(null=True)),
                ("timezone", models.TextField()),
                ("jitter_seconds", models.FloatField()),
                ("catch_up", models.TextField()),
                ("catch_up_max", models.IntegerField()),
                ("overlap", models.TextField()),
                ("owner", models.TextField()),
                ("paused", models.BooleanField()),
                ("retired_at", models.DateTimeField(null=True)),
                ("moment", models.DateTimeField()),
                ("next_run", models.DateTimeField()),
                ("waiting", models.BooleanField()),
                ("last_moment", models.DateTimeField(null=True)),
                ("last_run", models.DateTimeField(null=True)),
                ("last_job_id", models.UUIDField(null=True)),
                ("holders", Ids()),
                ("runs", models.BigIntegerField()),
                ("created_at", models.DateTimeField()),
                ("changed_at", models.DateTimeField()),
                ("revision", models.BigIntegerField()),
                ("orphaned", models.BooleanField()),
                ("declared_until", models.DateTimeField(null=True)),
            ],
            {
                "db_table": table("schedules"),
                "managed": False,
                "default_permissions": ("view", "delete"),
                "permissions": [
                    ("pause_schedule", "Can pause and resume schedules"),
                    ("run_schedule", "Can run schedules now"),
                ],
            },
        ),
    ]
