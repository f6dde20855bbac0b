"""A few seconds of tests/benchmarks/interval_coverage.py: the intervals that ship hold the truth about 95 times in 100."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.coverage_table import read, to_csv, to_markdown
from benchmarks.interval_coverage import SIMULATIONS, cells, run
from benchmarks.populations import Cell, Population, populations

# An error half as large again, or two thirds of what is right, is outside both bands.
COVERAGE = (0.90, 0.99)
ERROR_RATIO = (0.85, 1.2)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("cell", "trials"),
    [
        (Cell("mean", "skewed", 0.0, 0, 1000), 1000),
        (Cell("share", "nearly all right", 0.0, 0, 1000), 1000),
        (Cell("fid", "gaussian", 0.3, 16, 500), 300),
        (Cell("fid", "mixture", 0.3, 16, 500), 300),
        (Cell("ratio", "half", 0.0, 0, 1000), 1000),
        (Cell("kid", "mixture", 0.3, 16, 500), 300),
        (Cell("cmmd", "gaussian", 0.3, 16, 300), 200),
        (Cell("fid_infinity", "gaussian", 0.3, 16, 500), 200),
    ],
    ids=str,
)
def test_intervals_hold_the_truth(cell: Cell, trials: int) -> None:
    for row in SIMULATIONS[cell.metric](cell, trials):
        assert COVERAGE[0] <= row.coverage <= COVERAGE[1], row
        assert ERROR_RATIO[0] <= row.error_ratio <= ERROR_RATIO[1], row


@pytest.mark.ci
def test_blocks_hold_it_where_the_binomial_formula_does_not() -> None:
    rows = {(row.metric, row.method): row for row in SIMULATIONS["pr"](Cell("pr", "gaussian", 0.3, 16, 1000), 60)}
    for name in ("precision", "recall", "density", "coverage"):
        assert 0.75 <= rows[name, "10 blocks"].error_ratio <= 1.3
        assert rows[name, "10 blocks"].coverage >= 0.85
    assert rows["coverage", "binomial"].error_ratio < 0.8


def test_populations_are_what_is_drawn() -> None:
    """Moments and mean kernel in closed form against 200,000 draws."""
    cell = Cell("kid", "mixture", 0.3, 3, 10)
    generated, reference = populations(cell)
    draws = [one.draw(np.random.default_rng(seed), 200_000).astype(np.float64) for seed, one in enumerate((generated, reference))]
    moments = generated.moments()
    assert draws[0].mean(axis=0) == pytest.approx(moments.mean, abs=0.02)
    assert np.cov(draws[0], rowvar=False) == pytest.approx(moments.covariance, abs=0.05)
    kernel = (np.einsum("nd,nd->n", *draws) / 3 + 1) ** 3
    assert generated.mean_kernel(reference) == pytest.approx(kernel.mean(), abs=4 * kernel.std() / np.sqrt(200_000))
    point = Population(np.ones(1), np.ones((1, 3)), 0.0)
    assert point.mean_kernel(point) == pytest.approx(8)


def test_the_table_goes_on_where_it_was_stopped(tmp_path) -> None:  # type: ignore[no-untyped-def]
    output = tmp_path / "coverage.csv"
    run(output, 50, ("mean",), 60)
    rows = read(output)
    assert [row.metric for row in rows] == ["mean"] * 6
    assert output.read_text() == to_csv(rows)
    assert output.with_suffix(".md").read_text() == to_markdown(rows, cells())
    output.write_text("\n".join(output.read_text().splitlines()[:-1]) + "\n")
    before = read(output)
    run(output, 50, ("mean",), 60)
    assert read(output)[:5] == before
    assert len(read(output)) == 6
    run(output, 50, ("share",), 0)  # no time left, nothing done
    assert len(read(output)) == 6
