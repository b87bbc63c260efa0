"""How many jobs may still come into a bounded queue; no model looks at it."""

from __future__ import annotations

from django.db import migrations

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """Soniq's own alone."""

    dependencies = [("soniq", "0006_schedules")]
    operations = [ApplySoniq("0009_pre_room")]
