"""Fréchet distance: closed forms, a golden set, invariances, singular covariances."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from benchmarks.populations import gaussian_distance

from sbv2bench.errors import InputError
from sbv2bench.metrics import frechet_distance
from sbv2bench.metrics.frechet import Moments, factor

GOLDEN = 1.5362511706649


def gaussian(mean: list[float], covariance: object) -> Moments:
    return Moments(np.array(mean, dtype=float), np.array(covariance, dtype=float))


def by_svd(generated: np.ndarray, reference: np.ndarray) -> float:
    """FD by QR and a singular value decomposition of the features themselves: nothing is squared."""
    roots = [np.linalg.qr(x - x.mean(0), mode="r") / np.sqrt(len(x) - 1) for x in (generated, reference)]
    shift = generated.mean(0) - reference.mean(0)
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(shift @ shift + (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2 * cross)


def power_law(seed: int, n: int, d: int, power: float, scale: float = 1.0) -> np.ndarray:
    """Non-negative features with spectrum i^-2 power, [n, d]; the same axes for every seed."""
    axes = np.linalg.qr(np.random.default_rng(11).standard_normal((d, d)))[0]
    white = np.random.default_rng(seed).standard_normal((n, d))
    return np.maximum(scale * white * np.arange(1.0, d + 1) ** -power @ axes + 0.02, 0)


SHIFT = [1.0, -2.0, 3.0, -4.0]
ZERO = [0.0] * 4


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [
        (gaussian(ZERO, np.eye(4)), gaussian(ZERO, np.eye(4)), 0.0),
        (gaussian(SHIFT, np.eye(4)), gaussian(ZERO, np.eye(4)), 30.0),
        (gaussian(SHIFT, np.diag([1, 4, 9, 16])), gaussian(ZERO, np.diag([4, 9, 16, 25])), 34.0),
        (gaussian([0, 0], [[2, 1], [1, 2]]), gaussian([0, 0], [[3, -1], [-1, 2]]), 1.063762429862667),
        (gaussian(ZERO, np.diag([1, 1, 0, 0])), gaussian(ZERO, np.diag([0, 0, 1, 1])), 4.0),
        (gaussian(ZERO, np.diag([4, 0, 0, 0])), gaussian(ZERO, np.diag([1, 1, 0, 0])), 2.0),
        (gaussian(ZERO, np.zeros((4, 4))), gaussian(SHIFT, np.eye(4)), 34.0),
        # a feature with a tiny variance on one side only must not be taken for a missing one
        (gaussian([0, 0], np.diag([1, 1])), gaussian([0, 0], np.diag([1e4, 1e-14])), 99.0**2 + (1 - 1e-7) ** 2),
    ],
)
def test_closed_forms(generated: Moments, reference: Moments, expected: float) -> None:
    assert gaussian_distance(generated, reference) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert gaussian_distance(reference, generated) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_golden(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = golden
    assert frechet_distance(generated, reference) == pytest.approx(GOLDEN, rel=1e-9)
    assert frechet_distance(generated.astype(np.float32), reference.astype(np.float32)) == pytest.approx(1.53625111, abs=1e-6)
    # the same with ddof 0 has another value, which pins the convention
    biased = [Moments(rows.mean(axis=0), np.cov(rows, rowvar=False, ddof=0)) for rows in golden]
    assert gaussian_distance(*biased) == pytest.approx(1.53604005308745, rel=1e-9)


def test_invariances(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = golden
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    offset = rng.standard_normal(16)
    assert frechet_distance(reference, generated) == pytest.approx(GOLDEN, rel=1e-9)
    assert frechet_distance(rng.permutation(generated), reference) == pytest.approx(GOLDEN, rel=1e-9)
    assert frechet_distance(generated + offset, reference + offset) == pytest.approx(GOLDEN, rel=1e-9)
    assert frechet_distance(generated @ rotation, reference @ rotation) == pytest.approx(GOLDEN, rel=1e-9)
    assert frechet_distance(7 * generated, 7 * reference) == pytest.approx(49 * GOLDEN, rel=1e-9)
    doubled = frechet_distance(np.tile(generated, (2, 1)), np.tile(reference, (2, 1)))
    assert doubled == pytest.approx(GOLDEN, rel=1e-3)
    assert doubled != pytest.approx(GOLDEN, rel=1e-6)


def test_same_set_is_zero_never_negative(golden: tuple[np.ndarray, np.ndarray]) -> None:
    for rows in (*golden, golden[0][:10], power_law(1, 300, 64, 3.0)):
        assert 0 <= frechet_distance(rows, rows.copy()) < 1e-11


def test_moments_keep_their_digits_far_from_the_origin() -> None:
    rows = np.random.default_rng(5).standard_normal((300, 4))
    np.testing.assert_allclose(Moments.of(rows + 1e6).covariance, np.cov(rows.T), rtol=0, atol=1e-8)  # plain sums: off by 1e-4


def test_many_slabs_equal_one(monkeypatch: pytest.MonkeyPatch, golden: tuple[np.ndarray, np.ndarray]) -> None:
    whole = Moments.of(golden[0])
    monkeypatch.setattr("sbv2bench.metrics.frechet._SLAB_ELEMENTS", 16 * 33)
    np.testing.assert_allclose(Moments.of(golden[0]).covariance, whole.covariance, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("n", "m", "d", "power"),
    [(600, 700, 128, 0.6), (600, 700, 128, 3.0), (60, 70, 128, 0.6), (60, 700, 128, 0.6), (128, 129, 128, 0.6), (2, 3, 64, 0.6)],
)
def test_exact_for_full_and_deficient_rank(n: int, m: int, d: int, power: float) -> None:
    generated, reference = power_law(1, n, d, power), power_law(2, m, d, power, 1.1)
    expected = by_svd(generated, reference)
    moments = Moments.of(generated), Moments.of(reference)
    scale = max(np.trace(moments[0].covariance), np.trace(moments[1].covariance))
    assert frechet_distance(generated, reference) == pytest.approx(expected, abs=1e-10 * scale)
    assert gaussian_distance(*moments) == pytest.approx(expected, abs=1e-10 * scale)


def test_repeated_rows_do_not_hurt() -> None:
    """Ten different images, each many times: rank 9 in 64 dimensions, and in the Gram form zero singular values."""
    rng = np.random.default_rng(8)
    few, reference = rng.standard_normal((10, 64)), rng.standard_normal((50, 64))
    repeated = np.tile(few, (5, 1))
    expected = by_svd(repeated, reference)
    assert frechet_distance(repeated, reference) == pytest.approx(expected, rel=1e-11)
    assert gaussian_distance(Moments.of(repeated), Moments.of(reference)) == pytest.approx(expected, rel=1e-11)


def test_factor_is_a_root_of_the_right_rank() -> None:
    rows = power_law(4, 30, 100, 0.6)
    covariance = Moments.of(rows).covariance
    root = factor(covariance)
    assert root.shape == (100, 29)
    np.testing.assert_allclose(root @ root.T, covariance, rtol=0, atol=1e-14)
    assert factor(np.zeros((3, 3))).shape == (3, 0)


@pytest.mark.parametrize(
    ("generated", "reference", "words"),
    [
        (np.ones((5, 3)), np.ones((5, 4)), "D = 3"),
        (np.ones(5), np.ones((5, 4)), r"\[N, D\], found \[5\]"),
        (np.ones((5, 4)), np.ones((2, 2, 4)), "reference"),
        (np.ones((1, 4)), np.ones((5, 4)), "1 rows found, at least 2"),
        (np.ones((5, 0)), np.ones((5, 0)), r"found \[5, 0\]"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), np.ones((5, 2)), "row 1"),
        (np.ones((5, 2)), np.array([[np.inf, 2.0], [1.0, 1.0]]), "row 0"),
        (np.ones((5, 2)), np.array([[-np.inf, 2.0], [1.0, 1.0]]), "row 0"),
        (np.ones((5, 2), dtype=complex), np.ones((5, 2)), "complex"),
        ([["a", "b"], ["c", "d"]], np.ones((5, 2)), "real numbers"),
    ],
)
def test_refuses(generated: object, reference: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        frechet_distance(generated, reference)


def test_moments_refuse() -> None:
    with pytest.raises(InputError, match="at least 2"):
        Moments.of(np.ones((1, 3)))
    for bad in (np.ones((2, 3)), np.array([[1, np.nan], [np.nan, 1]]), -np.eye(2)):
        with pytest.raises(InputError):
            factor(bad)


def test_import_needs_numpy_only() -> None:
    code = (
        "import sys, sbv2bench.metrics, sbv2bench.metrics.uncertainty, sbv2bench.metrics.paired_cosine\n"
        "print(sorted({'torch', 'scipy', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
