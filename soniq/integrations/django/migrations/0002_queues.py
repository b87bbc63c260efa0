"""What may be said about a queue at run time."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """The model is unmanaged: only the first operation changes the database."""

    dependencies = [("soniq", "0001_initial")]
    operations = [
        ApplySoniq("0006_pre_queues"),
        migrations.AddField("Queue", "concurrency", models.IntegerField(null=True)),
        migrations.AddField("Queue", "rate_count", models.IntegerField(null=True)),
        migrations.AddField("Queue", "rate_seconds", models.FloatField(null=True)),
        migrations.AddField("Queue", "rate_burst", models.IntegerField(null=True)),
        migrations.AddField("Queue", "max_depth", models.IntegerField(null=True)),
        migrations.AddField("Queue", "on_full", models.TextField(null=True)),
        migrations.AddField("Queue", "aging_seconds", models.FloatField(null=True)),
    ]
