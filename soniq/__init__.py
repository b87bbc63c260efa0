"""Background jobs on the PostgreSQL your application already has."""

from __future__ import annotations

__version__ = "0.1.0"
