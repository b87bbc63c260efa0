"""Orders and sales."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Order",
            [
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("item", models.CharField(max_length=100)),
                ("email", models.EmailField(max_length=254)),
                ("invoice", models.CharField(blank=True, max_length=20)),
                ("mailed", models.BooleanField(default=False)),
                ("ordered_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            "Sales",
            [
                ("item", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("sold", models.IntegerField()),
            ],
        ),
    ]
