"""Print what holds on whom: `python -m tests.hosts`, with any options of pytest.

A row for each lender, a column for each case: `+` it holds, `F` it does not, `.` it means nothing
there, as both clients take the connection. The legend says which case a column is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

MARKS = {"passed": "+", "failed": "F", "skipped": "."}


class Matrix:
    """Remembers how each case ended on each lender."""

    def __init__(self) -> None:
        self.ends: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and not report.failed:
            return
        function, _, rest = report.nodeid.rpartition("::")[2].partition("[")
        if function == "test_on":
            lender, _, case = rest.rstrip("]").rpartition("-")
            self.ends.setdefault(lender, {})[case] = MARKS[report.outcome]

    def table(self) -> str:
        from .cases import CASES  # not before pytest, whose plugins want to be first
        from .lenders import LENDERS

        cases = [case.__name__ for case in CASES]
        lenders = [lender.title for lender in LENDERS if lender.title in self.ends]
        width = max(map(len, lenders), default=0)
        numbers = "".join(f"{number:>3}" for number, _ in enumerate(cases, 1))
        legend = [f"{number:>3} {case.replace('_', ' ')}" for number, case in enumerate(cases, 1)]
        rows = [
            f"{lender:<{width}}"
            + "".join(f"{self.ends[lender].get(case, ''):>3}" for case in cases)
            for lender in lenders
        ]
        return "\n".join([*legend, "", " " * width + numbers, *rows])


def main(options: list[str]) -> int:
    matrix = Matrix()
    suite = Path(__file__).with_name("test_conformance.py")
    code = pytest.main([str(suite), "-q", "-p", "no:randomly", *options], plugins=[matrix])
    print()
    print(matrix.table())
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
