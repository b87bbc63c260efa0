"""The model that looks at limits of tasks."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.models import Moments, table


class Migration(migrations.Migration):
    """Django's own alone: an unmanaged model, and the permission to look at it."""

    dependencies = [("soniq", "0009_pause_queues")]
    operations = [
        migrations.CreateModel(
            "Gate",
            [
                ("task", models.TextField(primary_key=True, serialize=False)),
                ("key", models.TextField()),
                ("concurrency", models.IntegerField(null=True)),
                ("key_concurrency", models.IntegerField(null=True)),
                ("rate_seconds", models.FloatField(null=True)),
                ("rate_burst", models.IntegerField(null=True)),
                ("rate_by_key", models.BooleanField()),
                ("breaker_failures", models.IntegerField(null=True)),
                ("breaker_window", models.FloatField(null=True)),
                ("breaker_pause", models.FloatField(null=True)),
                ("breaker_by_key", models.BooleanField()),
                ("declared_at", models.DateTimeField(null=True)),
                ("spent_until", models.DateTimeField(null=True)),
                ("failed_at", Moments(null=True)),
                ("closed_until", models.DateTimeField(null=True)),
                ("probe", models.UUIDField(null=True)),
            ],
            {
                "db_table": table("gates"),
                "managed": False,
                "default_permissions": ("view",),
                "verbose_name": "limit of a task",
                "verbose_name_plural": "limits of tasks",
            },
        ),
    ]
