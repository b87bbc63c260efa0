"""Shorter ways to enqueue jobs with keys: functions only."""

from __future__ import annotations

from django.db import migrations

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """Soniq's own alone."""

    dependencies = [("soniq", "0010_limits")]
    operations = [ApplySoniq("0011_pre_alike")]
