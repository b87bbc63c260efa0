"""Limits of tasks."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """The model is unmanaged: only the first operation changes the database."""

    dependencies = [("soniq", "0004_keys")]
    operations = [
        ApplySoniq("0005_pre_gates"),
        migrations.AddField("Job", "gate", models.TextField(null=True)),
    ]
