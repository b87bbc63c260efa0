"""Who may pause queues in the admin."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    """Django's own alone: a permission."""

    dependencies = [("soniq", "0008_aging")]
    operations = [
        migrations.AlterModelOptions(
            "Queue",
            {
                "managed": False,
                "default_permissions": ("view",),
                "permissions": [("pause_queue", "Can pause and resume queues")],
            },
        ),
    ]
