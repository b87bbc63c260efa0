"""The measured tasks as an application that `soniq worker` finds: `benchmarks.app:eq`."""

from __future__ import annotations

import os

from .tasks import application

eq = application(os.environ["SONIQ_DATABASE_URL"]).eq
