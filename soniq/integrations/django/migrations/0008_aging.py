"""Steps of priority that a job has gained by waiting."""

from __future__ import annotations

from django.db import migrations, models

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """The model is unmanaged: only the first operation changes the database."""

    dependencies = [("soniq", "0007_room")]
    operations = [
        ApplySoniq("0010_pre_aging"),
        migrations.AddField("Job", "aged", models.SmallIntegerField(null=True)),
    ]
