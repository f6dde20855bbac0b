"""Errors by blocks: of a mean, whose error is known, and of shares, which are never certain."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics.blocks import blocked_std_errs, errors_by_blocks, least_share_std_err


def test_blocks() -> None:
    """Of the difference of two means the error is known: 1,000 rows against 500, deviations 1 and 2."""
    rng = np.random.default_rng(4)

    def means(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
        gap: np.ndarray = generated.mean(axis=0) - reference.mean(axis=0)
        return gap

    generated, reference = rng.standard_normal((1000, 400)), 2 * rng.standard_normal((500, 400))
    std_errs = blocked_std_errs(means, generated, reference)
    assert np.sqrt(np.square(std_errs).mean()) == pytest.approx(np.sqrt(1 / 1000 + 4 / 500), rel=0.05)
    of_two = blocked_std_errs(means, generated, reference, blocks=2)
    gap = means(generated[::2], reference[::2]) - means(generated[1::2], reference[1::2])
    assert of_two == pytest.approx(np.abs(gap) / 2)
    for blocks in (1, 501):
        with pytest.raises(InputError, match=f"found {blocks} blocks of 1000 and 500 rows"):
            blocked_std_errs(means, generated, reference, blocks)


def test_least_error_of_a_share() -> None:
    assert least_share_std_err(0.5, 96) == pytest.approx(0.05)
    assert [least_share_std_err(share, 96) for share in (0.0, 1.0)] == pytest.approx([0.014, 0.014])


def test_errors_of_shares_and_of_others() -> None:
    rng = np.random.default_rng(1)
    generated, reference = rng.standard_normal((1000, 2)), rng.standard_normal((1000, 2))

    def statistic(generated: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
        return float(generated[:, 0].mean()), float((generated[:, 0] > 0).mean()), 1.0  # the last: all blocks agree

    values = statistic(generated, reference)
    (free, share, certain) = errors_by_blocks(statistic, generated, reference, values, (None, 1000, 1000))
    blocked = blocked_std_errs(statistic, generated, reference)
    assert free[0] == blocked[0]
    assert free[1] == pytest.approx((values[0] - 2.262157 * blocked[0], values[0] + 2.262157 * blocked[0]), rel=1e-6)
    assert share[0] == max(blocked[1], least_share_std_err(values[1], 1000))
    assert blocked[2] == 0
    assert certain[0] == least_share_std_err(1.0, 1000)
    assert certain[1] == pytest.approx((1 - 2.262157 * certain[0], 1.0), rel=1e-6)
