"""Properties are about what is so, not about how soon on a machine that others use as well."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
