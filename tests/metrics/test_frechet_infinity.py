"""FID-infinity: unbiased on Gaussians whose distance is known, and exactly the protocol that its module states."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics import frechet_distance
from sbv2bench.metrics.frechet_infinity import frechet_infinity


def gaussians(seed: int, n: int, m: int, dimension: int, gap: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Two sets with population distance 2 D gap^2: half in the means, half in the scales."""
    rng = np.random.default_rng(seed)
    return (1 + gap) * rng.standard_normal((n, dimension)) + gap, rng.standard_normal((m, dimension))


@pytest.mark.parametrize(("n", "m", "dimension"), [(1000, 1000, 16), (500, 2000, 32), (400, 400, 64)])
def test_the_bias_is_gone(n: int, m: int, dimension: int) -> None:
    """FD's bias is many of its errors; what is left of it is less than a tenth, even with two sizes only (the last)."""
    truth = 2 * dimension * 0.2**2
    pairs = [gaussians(seed, n, m, dimension) for seed in range(30)]
    bias = np.mean([frechet_distance(*pair) for pair in pairs]) - truth
    left = [frechet_infinity(*pair).value - truth for pair in pairs]
    error = np.std(left, ddof=1) / np.sqrt(30)
    assert bias > 5 * error
    assert abs(np.mean(left)) < max(0.1 * bias, 2.5 * error)


def test_equal_distributions_come_out_around_zero() -> None:
    values = [frechet_infinity(*gaussians(seed, 300, 300, 8, 0.0)).value for seed in range(40)]
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / np.sqrt(40)
    assert min(values) < 0 < max(values)


def test_the_protocol() -> None:
    """1,000 rows against 500 of 40 features: 500 // (3 * 40) = 4 sizes, parts cut by RandomState(seed)."""
    generated, reference = gaussians(0, 1000, 500, 40)
    found = frechet_infinity(generated, reference, seed=3)
    random = np.random.RandomState(3)
    expected = {1000: frechet_distance(generated, reference)}
    for count in (2, 3, 4):
        size, other = 1000 // count, 500 // count
        left, right = random.permutation(1000), random.permutation(500)
        parts = [
            frechet_distance(generated[left[i * size :][:size]], reference[right[i * other :][:other]]) for i in range(count)
        ]
        expected[size] = float(np.mean(parts))
    assert found.distances == pytest.approx(expected, rel=1e-12)
    slope, intercept = np.polyfit([count / 1000 for count in (1, 2, 3, 4)], list(expected.values()), 1)
    assert found.value == pytest.approx(intercept, rel=1e-9)
    assert found.slope == pytest.approx(slope, rel=1e-9)
    assert list(frechet_infinity(*gaussians(0, 1000, 2000, 8)).distances) == [1000, 500, 333, 250, 200]


def test_the_seed_decides() -> None:
    pair = gaussians(0, 300, 300, 8)
    assert frechet_infinity(*pair) == frechet_infinity(*pair, seed=0)
    assert frechet_infinity(*pair).value != frechet_infinity(*pair, seed=1).value


def test_refuses_too_few_rows() -> None:
    for n, m in ((47, 100), (100, 47), (5, 5)):
        with pytest.raises(InputError, match=f"D = 8 features: found {min(n, m)} rows, at least 48 expected"):
            frechet_infinity(*gaussians(0, n, m, 8))
    assert len(frechet_infinity(*gaussians(0, 48, 100, 8)).distances) == 2
