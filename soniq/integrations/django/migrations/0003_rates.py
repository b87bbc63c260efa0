"""How quick workers are in each queue."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """The model is unmanaged: only the first operation changes the database."""

    dependencies = [("soniq", "0002_queues")]
    operations = [
        ApplySoniq("0007_pre_rates"),
        migrations.AddField("Worker", "rates", models.JSONField(null=True)),
    ]
