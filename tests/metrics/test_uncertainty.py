"""Standard errors and intervals: hand values, coverage, and the Fréchet standard error against simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics import frechet_distance
from sbv2bench.metrics.uncertainty import (
    frechet_statistics,
    group_deviation,
    mean_and_std_err,
    normal_interval,
    t_interval,
    wilson_interval,
)


def test_mean_and_std_err() -> None:
    mean, std_err = mean_and_std_err([1.0, 2.0, 3.0, 6.0])
    assert mean == 3.0
    assert std_err == pytest.approx(np.sqrt(14 / 3) / 2, rel=1e-15)
    assert mean_and_std_err([2.5]) == (2.5, None)


def test_t_interval() -> None:
    """Quantiles of Student's t from printed tables: 12.7062 (1 degree of freedom, 95 %), 2.920 (2, 90 %)."""
    low, high = t_interval([0.0, 2.0])
    assert (low, high) == pytest.approx((1 - 12.7062047, 1 + 12.7062047), rel=1e-7)
    low, high = t_interval([1.0, 2.0, 3.0], level=0.9)
    assert high - 2 == pytest.approx(2.91998558 / np.sqrt(3), rel=1e-7)
    assert low == pytest.approx(4 - high)
    assert t_interval([1.0]) is None


def test_t_interval_covers() -> None:
    draws = np.random.default_rng(0).standard_normal((2000, 3)) + 5
    inside = [low <= 5 <= high for low, high in map(t_interval, draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_normal_interval() -> None:
    assert normal_interval(3.0, 0.5) == pytest.approx((2.020018, 3.979982), rel=1e-6)


def test_wilson_interval() -> None:
    """Closed forms: none of 10 reaches to z^2 / (10 + z^2); 5 of 10 is symmetric, 0.5 z / sqrt(10 + z^2) wide."""
    square = 1.959963984540054**2
    assert wilson_interval(0.0, 10) == pytest.approx((0, square / (10 + square)), rel=1e-12, abs=1e-15)
    assert wilson_interval(1.0, 10) == pytest.approx((10 / (10 + square), 1), rel=1e-12)
    reach = 0.5 * np.sqrt(square / (10 + square))
    assert wilson_interval(0.5, 10) == pytest.approx((0.5 - reach, 0.5 + reach), rel=1e-12)
    for share, n in ((1.2, 10), (-0.1, 10), (np.nan, 10), (0.5, 0)):
        with pytest.raises(InputError, match="share from 0 to 1"):
            wilson_interval(share, n)


def test_group_deviation() -> None:
    scores = 20 + np.arange(800) / 100
    assert group_deviation(scores) == pytest.approx((23.995, 2.29782505861521), rel=1e-12)  # ddof 1 would be 2.42212028
    mean, _ = group_deviation(scores[:790])  # the short last group counts in full
    assert mean == pytest.approx(23.99, rel=1e-12)
    assert scores[:790].mean() == pytest.approx(23.945, rel=1e-12)
    assert group_deviation([1.0, 3.0, 8.0], group=2) == (5.0, 3.0)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf], [[1.0, 2.0]]])
def test_refuse_values(values: list[float]) -> None:
    for function in (mean_and_std_err, t_interval, group_deviation):
        with pytest.raises(InputError, match="at least one finite number"):
            function(values)


def test_refuse_arguments() -> None:
    with pytest.raises(InputError, match="level"):
        t_interval([1.0, 2.0], level=95)
    with pytest.raises(InputError, match="group"):
        group_deviation([1.0, 2.0], group=0)


Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
MIXING = np.eye(16) + 0.3 * np.random.default_rng(99).standard_normal((16, 16)) / 4


def shifted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((1000, 16)) @ MIXING + 0.5, rng.standard_normal((1000, 16))


def stretched(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Equal means: all of the distance, and of its error, is in the covariances."""
    return rng.standard_normal((1000, 16)) @ (MIXING + 0.5 * np.eye(16)), rng.standard_normal((1000, 16))


def unequal(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((500, 16)) @ MIXING + 0.25, rng.standard_normal((2000, 16))


def skewed(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.exponential(1.2, (1000, 16)), rng.exponential(1.0, (1000, 16))


def std_err(generated: np.ndarray, reference: np.ndarray) -> float:
    found = frechet_statistics(generated, reference)[1]
    assert found is not None
    return found


@pytest.mark.ci
@pytest.mark.parametrize("draw", [shifted, stretched, unequal, skewed])
def test_frechet_std_err_matches_simulation(draw: Draw) -> None:
    """D = 16: mean standard error within 12 % of the deviation of FD over 300 draws (whose own error is 4 %)."""
    values, errors = [], []
    for seed in range(300):
        generated, reference = draw(np.random.default_rng(seed))
        values.append(frechet_distance(generated, reference))
        errors.append(std_err(generated, reference))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
    assert np.mean(values) > 5 * np.std(values)  # clearly above zero, where it is meant to hold


def test_frechet_std_err_of_a_mean_shift() -> None:
    """One dimension, closed form: FD = d^2 + (s - t)^2, so var = (4 d^2 s^2 + 2 s^2 (s - t)^2) / N + the other side's."""
    rng = np.random.default_rng(1)
    generated, reference = 2 * rng.standard_normal((200_000, 1)) + 3, rng.standard_normal((100_000, 1))
    expected = np.sqrt((4 * 9 * 4 + 2 * 4 * 1) / 200_000 + (4 * 9 * 1 + 2 * 1 * 1) / 100_000)
    assert std_err(generated, reference) == pytest.approx(expected, rel=0.01)


def test_frechet_std_err_is_symmetric_and_scales() -> None:
    generated, reference = shifted(np.random.default_rng(0))
    value = std_err(generated, reference)
    assert std_err(reference, generated) == pytest.approx(value, rel=1e-9)
    assert std_err(3 * generated, 3 * reference) == pytest.approx(9 * value, rel=1e-9)


def test_frechet_std_err_ignores_dead_features() -> None:
    """A feature that is constant in one set or in both; next to nothing in place of nothing must give the same."""
    generated, reference = shifted(np.random.default_rng(0))
    dead = np.zeros((1000, 1))
    assert std_err(np.hstack([generated, dead]), np.hstack([reference, dead])) == pytest.approx(
        std_err(generated, reference), rel=1e-9
    )
    alive = np.random.default_rng(5).standard_normal((1000, 1))
    assert std_err(np.hstack([generated, dead]), np.hstack([reference, alive])) == pytest.approx(
        std_err(np.hstack([generated, 1e-6 * alive]), np.hstack([reference, alive])), rel=1e-4
    )


def test_frechet_statistics_are_distance_and_error() -> None:
    generated, reference = shifted(np.random.default_rng(0))
    assert frechet_statistics(generated, reference)[0] == frechet_distance(generated, reference)
    assert frechet_statistics(generated[:16], reference) == (frechet_distance(generated[:16], reference), None)
    assert frechet_statistics(generated, reference[:16])[1] is None
