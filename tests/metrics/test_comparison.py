"""Differences of means: against SciPy's tests, with the corner cases that tables meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sbv2bench.errors import InputError
from sbv2bench.metrics.comparison import Mean, holm, mean_of, paired, spread_of, welch

RNG = np.random.default_rng(5)
A, B = RNG.normal(0.0, 1.0, 12), RNG.normal(0.7, 3.0, 7)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_welch_is_scipys(level: float) -> None:
    found = welch(mean_of(A), mean_of(B), level)
    peer = stats.ttest_ind(A, B, equal_var=False)
    interval = peer.confidence_interval(level)
    assert found.value == pytest.approx(A.mean() - B.mean())
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(peer.pvalue)


def test_paired_is_scipys_and_repeats_are_averaged_first() -> None:
    second = A + RNG.normal(0.2, 0.3, 12)
    peer = stats.ttest_rel(A, second)
    found = paired(A, second)
    assert (found.p_value, found.interval) == (pytest.approx(peer.pvalue), pytest.approx(tuple(peer.confidence_interval())))
    noise = RNG.normal(0, 0.1, 12)
    repeated = paired([A + noise, A - noise], [second, second])
    assert repeated.p_value == pytest.approx(found.p_value)  # not half as large for counting everything twice


def test_known_errors_make_normal_intervals() -> None:
    found = welch(Mean(1.0, 0.3, math.inf), Mean(0.0, 0.4, math.inf))
    assert found.interval == pytest.approx((1 - 1.959964 * 0.5, 1 + 1.959964 * 0.5))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(2.0))


def test_a_thing_against_itself_is_no_difference() -> None:
    assert paired(A, A) == paired(A, A.copy())
    assert (paired(A, A).value, paired(A, A).p_value, paired(A, A).interval) == (0.0, 1.0, (0.0, 0.0))
    assert welch(mean_of(A), mean_of(A)).p_value == 1.0


def test_no_spread_is_no_certainty() -> None:
    """The same thing counted twice does not scatter; so does a difference that every pair has, but for rounding."""
    assert welch(Mean(2.0, 0.0, 3), Mean(1.0, 0.0, 3)) is None
    assert welch(Mean(2.0, 0.0, 3), Mean(1.0, 0.1, 3)) is None
    assert paired([1.0, 2.0], [2.0, 3.0]) is None
    assert paired([[1.0, 2.0]] * 3, [[2.0, 3.0]] * 3) is None
    shifted = A.astype(np.float32) + np.float32(0.1)
    assert paired(A.astype(np.float32), shifted) is None
    assert paired([0.0, 0.0], [1.0, 1.0]) is None
    for alike in ([3.0, 3.0, 3.0], [3.0, 3.0 + 1e-7], [1.0], []):
        assert spread_of(alike) is None
    assert spread_of([3.0, 3.1]) == mean_of([3.0, 3.1])


def test_intervals_hold_what_they_promise() -> None:
    """4,000 differences of small unequal samples: the true 0 is outside about 5 % of the intervals."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(4000):
        low, high = welch(mean_of(rng.normal(0, 1, 3)), mean_of(rng.normal(0, 2, 5))).interval
        missed += not low <= 0 <= high
    assert 0.035 < missed / 4000 < 0.06


def test_holm() -> None:
    """By hand: sorted 0.01, 0.02, 0.04 times 3, 2, 1; never smaller than the one before, never above 1."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("first", "second"), [([1.0, 2.0], [1.0]), ([1.0], [2.0]), ([[[1.0]]], [[[1.0]]]), ([1.0, math.nan], [1.0, 2.0])]
)
def test_bad_input(first: list[float], second: list[float]) -> None:
    with pytest.raises(InputError):
        paired(first, second)
    with pytest.raises(InputError, match="level"):
        welch(mean_of(A), mean_of(B), 1.0)
