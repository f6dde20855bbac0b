"""Kernel distance: golden values, blocks, subsets, and its standard error against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics import kernel_distance
from sbv2bench.metrics.kernel import kernel_distance_subsets, kernel_statistics


def by_definition(generated: np.ndarray, reference: np.ndarray) -> float:
    """Whole kernel matrices, the diagonal taken out by hand."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(generated), len(reference)
    within = kernel(generated, generated), kernel(reference, reference)
    means = (within[0].sum() - np.trace(within[0])) / (n * (n - 1)), (within[1].sum() - np.trace(within[1])) / (m * (m - 1))
    return means[0] + means[1] - 2 * kernel(generated, reference).mean()


def test_golden(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = golden
    assert kernel_distance(generated, reference) == pytest.approx(0.23195310028962, rel=1e-12)
    assert kernel_distance(generated, reference[:400]) == pytest.approx(0.23288667460524, rel=1e-12)
    assert kernel_distance(reference, reference) == pytest.approx(-0.02938208486, rel=1e-9)  # negative is legal


def test_hand_set() -> None:
    """D = 1: k(x, y) = (xy + 1)^3; generated {0, 1}, reference {1, 2}: 1 + 27 - 2 (1 + 1 + 8 + 27) / 4."""
    assert kernel_distance([[0.0], [1.0]], [[1.0], [2.0]]) == 1 + 27 - 2 * 37 / 4


@pytest.mark.parametrize("block", [1, 7, 64, 400, 1024])
def test_blocked_equals_definition(golden: tuple[np.ndarray, np.ndarray], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, reference = golden[0][:90], golden[1][:110]
    monkeypatch.setattr("sbv2bench.metrics.kernel._BLOCK", block)
    assert kernel_distance(generated, reference) == pytest.approx(by_definition(generated, reference), rel=1e-11)


def test_symmetry_and_float32(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = (rows.astype(np.float32) for rows in golden)
    value = kernel_distance(generated, reference)
    assert kernel_distance(reference, generated) == pytest.approx(value, rel=1e-12)
    assert value == pytest.approx(by_definition(generated.astype(np.float64), reference.astype(np.float64)), rel=1e-12)


def test_subsets(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = golden
    mean, deviation = kernel_distance_subsets(generated, reference, subsets=40, subset_size=100)
    assert (mean, deviation) == kernel_distance_subsets(generated, reference, subsets=40, subset_size=100)
    assert (mean, deviation) != kernel_distance_subsets(generated, reference, subsets=40, subset_size=100, seed=1)
    assert mean == pytest.approx(kernel_distance(generated, reference), abs=4 * deviation / np.sqrt(40))
    assert deviation > 0
    # a subset of everything is everything
    whole, none = kernel_distance_subsets(generated, reference[:400], subsets=2, subset_size=400)
    assert whole == pytest.approx(0.23288667460524, rel=1e-11)
    assert none < 1e-12


def test_std_err_matches_simulation() -> None:
    """Sets of unequal size, distance clearly above zero: mean std_err within 12 % of the deviation over 300 draws."""
    values, errors = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        value, error = kernel_statistics(1.2 * rng.standard_normal((300, 8)) + 0.3, rng.standard_normal((200, 8)))
        values.append(value)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
    assert np.mean(values) > 3 * np.std(values)


def test_std_err_of_equal_distributions_is_on_the_safe_side() -> None:
    values, errors = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        value, error = kernel_statistics(rng.standard_normal((150, 8)), rng.standard_normal((150, 8)))
        values.append(value)
        errors.append(error)
    assert 1.2 < np.mean(errors) / np.std(values) < 1.7  # sqrt 2 by theory
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)  # unbiased


@pytest.mark.parametrize("arguments", [{"subset_size": 401}, {"subset_size": 1}, {"subsets": 0, "subset_size": 10}])
def test_subsets_refuse(golden: tuple[np.ndarray, np.ndarray], arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match="subset_size from 2 to 400"):
        kernel_distance_subsets(*golden, **arguments)


@pytest.mark.parametrize(
    ("generated", "reference"),
    [(np.ones((1, 2)), np.ones((5, 2))), (np.ones((5, 3)), np.ones((5, 2))), (np.ones((5, 2)), np.full((5, 2), np.nan))],
)
def test_refuses(generated: np.ndarray, reference: np.ndarray) -> None:
    with pytest.raises(InputError):
        kernel_distance(generated, reference)
