"""Schedules that are retired until their code is back."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """The model is unmanaged: only the first operation changes the database."""

    dependencies = [("soniq", "0013_sooner")]
    operations = [
        ApplySoniq("0014_pre_orphaned"),
        migrations.AddField("Schedule", "orphaned", models.BooleanField()),
        migrations.AddField("Schedule", "declared_until", models.DateTimeField(null=True)),
    ]
