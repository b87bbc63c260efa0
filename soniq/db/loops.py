"""Which event loop runs the caller."""

from __future__ import annotations

import sys


def on_trio() -> bool:
    """Tell whether trio runs the caller; without importing it."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())
