"""The scenarios, one function each: it hurts the system on a stand, and sees to its recovery."""

from __future__ import annotations

import importlib

from ._scenario import ALL, Scenario

# Each module registers what it declares.
for _name in (
    "workers", "gates", "server", "failover", "network", "limits", "clock", "handlers", "upgrade",
):  # fmt: skip
    importlib.import_module(f"{__name__}.{_name}")

SCENARIOS: dict[str, Scenario] = {
    each.name: each for each in sorted(ALL, key=lambda scenario: scenario.number)
}
