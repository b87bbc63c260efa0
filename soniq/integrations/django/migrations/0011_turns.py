"""Limits of tasks, anew."""

from __future__ import annotations

from django.db import migrations

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """Functions and an index; no model changes."""

    dependencies = [("soniq", "0010_limits")]
    operations = [ApplySoniq("0011_pre_turns")]
