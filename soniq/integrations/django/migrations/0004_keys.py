"""Unique jobs: who has which key."""

from __future__ import annotations

from django.db import migrations

from soniq.integrations.django.schema import ApplySoniq


class Migration(migrations.Migration):
    """No model: a key says nothing that a job does not."""

    dependencies = [("soniq", "0003_rates")]
    operations = [ApplySoniq("0003_pre_keys"), ApplySoniq("0008_pre_enqueue")]
