"""Shorter ways to enqueue jobs with keys: functions only."""

from __future__ import annotations

from django.db import migrations

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """Soniq's own alone."""

    dependencies = [("soniq", "0011_turns")]
    operations = [ApplySoniq("0012_pre_alike")]
