"""Every tunable: its unit, its default, its range, and where its value comes from.

An argument wins over the environment (`SONIQ_` and the name in capitals), that over `[tool.soniq]`
in the `pyproject.toml` of the working folder, that over the default. Each setting is defined once,
as a field of `Settings`; parsing, ranges, messages and the reference in `docs/` follow from it.
"""

from .sources import load, project_section, reference
from .table import Settings

__all__ = ["Settings", "load", "project_section", "reference"]
