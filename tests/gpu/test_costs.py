"""What is predicted of a run holds on this CPU, within 30 %."""

from __future__ import annotations

import pytest
from gpu import costs


@pytest.fixture(scope="module")
def found() -> list[costs.Row]:
    rows = costs.rows()
    costs.print_rows(rows)
    assert len(rows) == 16
    return rows


@pytest.mark.ci
@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_bytes_are_within_30_percent_of_what_is_measured(found: list[costs.Row]) -> None:
    assert not [(row.what, round(row.ratio, 2)) for row in found if row.unit == "bytes" and not row.holds]


@pytest.mark.slow  # on a quiet machine: other work on the cores is in what is measured, and not in what is predicted
@pytest.mark.weights
@pytest.mark.timeout(1200)
def test_seconds_are_within_30_percent_of_what_is_measured(found: list[costs.Row]) -> None:
    assert not [(row.what, round(row.ratio, 2)) for row in found if row.unit == "s" and not row.holds]
