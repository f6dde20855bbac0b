"""Precision, recall, density, coverage: hand sets, golden sets, identities, and exactness against plain float64."""

from __future__ import annotations

import sys
import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from sbv2bench.errors import InputError
from sbv2bench.metrics import precision_recall
from sbv2bench.metrics.lower_bounds import Blocks, pair_bounds
from sbv2bench.metrics.precision_recall import PrecisionRecall, radii


@pytest.fixture(params=["arrays", "tensors"], autouse=True)
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device | None:
    """Every test twice: by NumPy, and by the path of a CUDA device on torch's CPU."""
    if request.param == "arrays":
        return None
    module, device = sys.modules["sbv2bench.metrics.precision_recall"], torch.device("cpu")
    monkeypatch.setattr(module, "full_precision", lambda name: nullcontext(device))
    return device


HAND_REFERENCE = np.array([0.0, 1, 2, 3, 10])[:, None]
HAND_GENERATED = np.array([1.0, 4, 6, 30])[:, None]


def brute_force(generated: np.ndarray, reference: np.ndarray, k: int) -> PrecisionRecall:
    """Every distance in float64 from coordinate differences, full sorts, no blocks."""
    fake, real = generated.astype(np.float64), reference.astype(np.float64)

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.stack([((row - b) ** 2).sum(axis=1) for row in a])

    real_radii, fake_radii = (np.sort(squared(x, x), axis=1)[:, k] for x in (real, fake))  # the point itself is at rank 0
    cross = squared(fake, real)
    in_real, in_fake = cross <= real_radii, cross <= fake_radii[:, None]
    return PrecisionRecall(
        precision=in_real.any(axis=1).mean(),
        recall=in_fake.any(axis=0).mean(),
        density=in_real.sum() / (k * len(fake)),
        coverage=in_real.any(axis=0).mean(),
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize(("k", "density", "coverage"), [(1, 1.5, 1.0), (2, 0.875, 1.0), (3, 0.8333333333333334, 1.0)])
def test_hand_set(dtype: type, k: int, density: float, coverage: float) -> None:
    """Points on the boundary and one that coincides: strict < would give density 0.75, 0.625, 0.5833."""
    result = precision_recall(HAND_GENERATED.astype(dtype), HAND_REFERENCE.astype(dtype), k)
    assert result == PrecisionRecall(precision=0.75, recall=1.0, density=density, coverage=coverage)


def test_hand_radii() -> None:
    assert np.sqrt(radii(HAND_REFERENCE, 1)).tolist() == [1, 1, 1, 1, 7]
    assert np.sqrt(radii(HAND_GENERATED, 1)).tolist() == [3, 2, 2, 24]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("k", "expected"), [(3, (0.855, 0.562, 1.2641666667, 0.82)), (5, (0.9025, 0.664, 1.273, 0.942))])
def test_golden(golden: tuple[np.ndarray, np.ndarray], k: int, expected: tuple[float, float, float, float], dtype: type) -> None:
    result = precision_recall(golden[0].astype(dtype), golden[1].astype(dtype), k)
    assert (result.precision, result.recall, result.density, result.coverage) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("k", "expected"), [(3, (1.0, 0.465, 1.1355555556, 0.355)), (5, (1.0, 0.55, 1.096, 0.38))])
def test_two_dimensions(k: int, expected: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(7)
    reference = rng.standard_normal((200, 2))
    generated = 0.5 * rng.standard_normal((150, 2)) + np.array([1.0, 0.0])
    result = precision_recall(generated, reference, k)
    assert (result.precision, result.recall, result.density, result.coverage) == pytest.approx(expected, rel=1e-9)


def test_identities(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = golden
    same = precision_recall(reference, reference)
    assert (same.precision, same.recall, same.coverage) == (1.0, 1.0, 1.0)
    assert same.density >= 4 / 3  # each ball holds its own centre and three neighbours
    there, back = precision_recall(generated, reference), precision_recall(reference, generated)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.precision != there.recall
    assert precision_recall(generated + 1000, reference) == PrecisionRecall(0.0, 0.0, 0.0, 0.0)
    tight = precision_recall(0.05 * generated, reference)
    assert tight.precision > 0.95
    assert tight.recall < 0.05


@pytest.mark.parametrize("block_size", [1, 7, 64, 500, 10_000])
def test_blocked_equals_unblocked(
    golden: tuple[np.ndarray, np.ndarray], block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated, reference = (rows[:90] if block_size == 1 else rows for rows in golden)
    usual = radii(reference, 3)
    monkeypatch.setattr(sys.modules["sbv2bench.metrics.lower_bounds"], "BLOCK", block_size)
    assert precision_recall(generated, reference) == brute_force(generated, reference, 3)
    squared = ((reference[:, None] - reference) ** 2).sum(axis=2)
    np.testing.assert_allclose(radii(reference, 3), np.sort(squared, axis=1)[:, 3], rtol=1e-15)
    assert radii(reference, 3).tobytes() == usual.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 3, 256])
def test_duplicates_match_themselves(dimension: int, dtype: type) -> None:
    """k + 1 copies of a point: radius exactly 0, and a generated copy still lies in that ball."""
    rng = np.random.default_rng(4)
    point, others = rng.standard_normal((1, dimension)) + 3, rng.standard_normal((40, dimension)) * 1.7
    reference = np.concatenate([others, np.repeat(point, 4, axis=0)]).astype(dtype)
    assert radii(reference, 3)[-4:].tolist() == [0, 0, 0, 0]
    generated = np.concatenate([np.repeat(point, 4, axis=0), others[:1] + 1e3]).astype(dtype)
    assert radii(generated, 3)[:4].tolist() == [0, 0, 0, 0]
    result = precision_recall(generated, reference)
    assert result == brute_force(generated, reference, 3)
    assert result.precision == 0.8  # the four copies lie in balls of radius 0
    # the far fifth point's own ball reaches back over everything, so recall shows nothing: take it away
    copies = precision_recall(generated[:4], reference)
    assert copies.recall == 4 / 44
    assert copies.coverage >= 4 / 44


def adversaries() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sets on which float32 products go wrong or many distances tie."""
    rng = np.random.default_rng(1)
    n, m, d = 180, 230, 48
    five = rng.standard_normal((5, d))

    def noise(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, d))

    wide = 10.0 ** rng.uniform(-6, 6, (n, 1)), 10.0 ** rng.uniform(-6, 6, (m, 1))
    shared = noise(m)
    corners = np.tile(np.eye(5, d), (50, 1)) * (1 + 1e-5 * rng.random((250, 1)))
    simplices = np.repeat(10 * noise(50), 5, axis=0) + corners  # the third and fourth neighbour differ by rounding only
    return {
        "plain": (noise(n), noise(m)),
        "far from the origin": (noise(n) + 1e5, noise(m) + 1e5),
        "squares underflow float32": (noise(n) * 1e-24, noise(m) * 1e-24),
        "large": (noise(n) * 1e15, noise(m) * 1e15),
        "lattice of ties": (rng.integers(0, 4, (n, 3)), rng.integers(0, 4, (m, 3))),
        "binary": (rng.integers(0, 2, (n, d)), rng.integers(0, 2, (m, d))),
        "five near-duplicate clusters": (
            five[rng.integers(0, 5, n)] + 1e-5 * noise(n),
            five[rng.integers(0, 5, m)] + 1e-5 * noise(m),
        ),
        "five images repeated": (five[rng.integers(0, 5, n)], five[rng.integers(0, 5, m)]),
        "all equal": (np.ones((n, d)), np.ones((m, d))),
        "collapsed": (five[:1] + 1e-4 * noise(n), noise(m)),
        "collapsed far away": (100 * five[:1] + 1e-4 * noise(n), noise(m)),
        "norms over twelve decades": (noise(n) * wide[0], noise(m) * wide[1]),
        "generated copied from the reference": (shared[:n], shared),
        "near-regular simplices of five": (simplices[:n], simplices[-m:]),
        "on a line": (rng.random((n, 1)), rng.random((m, 1))),
    }


@pytest.mark.parametrize("name", list(adversaries()))
def test_exactly_float64_arithmetic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (np.float32, np.float64):
        generated, reference = (rows.astype(dtype) for rows in adversaries()[name])
        expected = brute_force(generated, reference, 3)
        wide = reference.astype(np.float64)
        expected_radii = np.sort([((row - wide) ** 2).sum(axis=1) for row in wide], axis=1)[:, 3]
        for block_size in (50, 1024):
            monkeypatch.setattr(sys.modules["sbv2bench.metrics.lower_bounds"], "BLOCK", block_size)
            assert precision_recall(generated, reference) == expected, (dtype, block_size)
            np.testing.assert_array_equal(radii(reference, 3), expected_radii)


def test_many_neighbours() -> None:
    rng = np.random.default_rng(12)
    generated, reference = rng.standard_normal((150, 4)), rng.standard_normal((300, 4))
    assert precision_recall(generated, reference, 100) == brute_force(generated, reference, 100)
    assert precision_recall(generated[:20], reference[:21], 19) == brute_force(generated[:20], reference[:21], 19)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 16, 2048])
def test_bounds_hold_the_distance(dimension: int, dtype: type, where: torch.device | None) -> None:
    """Lower bound <= exact half distance <= lower bound + slack, for like and for unlike features."""
    rng = np.random.default_rng(9)
    for rows in (rng.standard_normal((200, dimension)), rng.random((200, dimension)) + 10, np.ones((200, dimension))):
        features = rows.astype(dtype)
        points = Blocks(features, np.zeros(dimension, dtype=dtype), where)
        block = points.block(0)
        lower = np.asarray(pair_bounds(block, block).values).astype(np.float64)
        i, j = (axis.ravel() for axis in np.indices(lower.shape))
        exact = points.exact(i, points, j)
        assert (lower.ravel() <= exact).all()
        assert (exact <= lower.ravel() + points.slack(i, points, j)).all()


def test_cached_radii(golden: tuple[np.ndarray, np.ndarray]) -> None:
    generated, reference = golden
    cached = radii(reference, 5)
    assert precision_recall(generated, reference, 5, reference_radii=cached) == precision_recall(generated, reference, 5)
    wider = precision_recall(generated, reference, 5, reference_radii=4 * cached)
    assert wider.precision > precision_recall(generated, reference, 5).precision  # they are used


def test_memory_beyond_the_features(where: torch.device | None) -> None:
    """Blocks only: far below the three distance matrices, and no [N, D] copy."""
    if where is not None:
        pytest.skip("a device holds both sets")
    rng = np.random.default_rng(2)
    generated = rng.standard_normal((6000, 512), dtype=np.float32)
    reference = rng.standard_normal((7000, 512), dtype=np.float32)
    tracemalloc.start()
    precision_recall(generated, reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # one 6000 x 512 copy is 12 MB, one 6000 x 7000 matrix 168 MB


@pytest.mark.ci
@pytest.mark.parametrize("features", [np.ones((2000, 64), np.float32), np.tile(np.eye(40, dtype=np.float64), (50, 40))])
def test_memory_in_the_worst_case(features: np.ndarray) -> None:
    """All pairs tie, so every pair of a block is open."""
    tracemalloc.start()
    precision_recall(features, features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 3, "generated": np.ones((3, 2))}, "generated features: 3 rows found, more than k = 3"),
        ({"k": 6, "reference": np.ones((6, 2))}, "reference features: 6 rows"),
        ({"k": 0}, "at least 1"),
        ({"generated": np.ones((8, 3))}, "D = 3"),
        ({"generated": np.full((8, 2), np.nan)}, "row 0"),
        ({"reference": np.ones(8)}, r"found \[8\]"),
        ({"reference_radii": np.ones(4)}, "found shape"),
        ({"reference_radii": -np.ones(8)}, "finite squared distances"),
        (
            {"generated": np.outer(np.arange(8), [1e25, 1e25]).astype(np.float32), "reference": np.ones((8, 2), np.float32)},
            "float32",
        ),
    ],
)
def test_refuses(change: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {"generated": np.eye(8, 2), "reference": np.eye(8, 2), **change}
    with pytest.raises(InputError, match=words):
        precision_recall(**arguments)


def test_radii_refuse() -> None:
    with pytest.raises(InputError, match="more than k = 3"):
        radii(np.ones((3, 2)), 3)
