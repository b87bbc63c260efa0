"""The same cases on every lender; `python -m tests.hosts` prints them as a table."""

from __future__ import annotations

import pytest

from .cases import CASES
from .lender import Case, Lender, Place
from .lenders import LENDERS


@pytest.mark.timeout(300)  # the first on Django's waits for all of them
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("lender", LENDERS, ids=lambda lender: lender.title)
def test_on(lender: type[Lender], case: Case, place: Place) -> None:
    lender.run(case, place)
