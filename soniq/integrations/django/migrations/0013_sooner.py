"""Claims of jobs behind limits, sooner: functions only."""

from __future__ import annotations

from django.db import migrations

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """Soniq's own alone."""

    dependencies = [("soniq", "0012_alike")]
    operations = [ApplySoniq("0013_pre_sooner")]
