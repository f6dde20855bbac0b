"""The paper's arithmetic of precision and recall: float16 as torch's own half tensors have it, and the fallback of a block."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from sbv2bench.errors import InputError
from sbv2bench.metrics import precision_recall
from sbv2bench.metrics.paper_precision_recall import block_distances, paper_precision_recall, paper_radii

Sets = tuple[np.ndarray, np.ndarray]


def block_by_torch(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The script's formula on half tensors, and on float32 ones where the result is not finite."""
    for dtype in (torch.float16, torch.float32):
        a, b = u.to(dtype), v.to(dtype)
        norms = (a * a).sum(1), (b * b).sum(1)
        distances = torch.clamp_min(norms[0][:, None] - 2 * (a @ b.T) + norms[1], 0)
        if bool(torch.isfinite(distances).all()):
            break
    return distances.float()


def by_torch(generated: np.ndarray, reference: np.ndarray, k: int, size: int) -> tuple[float, float]:
    """Whole matrices from such blocks, full sorts, the point itself at whatever rank rounding gives it."""

    def matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(a.astype(np.float32)).split(size), torch.from_numpy(b.astype(np.float32)).split(size)
        return torch.cat([torch.cat([block_by_torch(u, v) for v in parts[1]], 1) for u in parts[0]]).numpy()

    real_radii, fake_radii = (np.sort(matrix(x, x), axis=1)[:, k] for x in (reference, generated))
    cross = matrix(reference, generated)
    return float((cross <= real_radii[:, None]).any(axis=0).mean()), float((cross <= fake_radii).any(axis=1).mean())


def quarters(n: int, m: int, d: int, far: int) -> Sets:
    """Whole numbers over 4: products are exact in float32 in any order, so that what is compared is the rounding alone."""
    rng = np.random.default_rng(5)
    return tuple((rng.integers(0, 9, (rows, d)) / 4 + far).astype(np.float32) for rows in (n, m))


@pytest.mark.parametrize("far", [2, 6])
def test_a_block_is_that_of_half_tensors(far: int) -> None:
    """Squared norms near 480 and 2,400, where float16 has steps of a quarter and of 2: bit for bit, and not the exact ones."""
    u, v = quarters(90, 70, 48, far)
    (_, distances), *_ = block_distances(u, v)
    assert np.array_equal(distances, block_by_torch(torch.from_numpy(u), torch.from_numpy(v)).numpy())
    assert np.abs(distances - ((u[:, None] - v) ** 2).sum(axis=2)).max() >= 0.25


@pytest.mark.parametrize("size", [7, 64, 10_000])
def test_equals_half_tensors(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generated, reference = quarters(120, 150, 48, 6)
    monkeypatch.setattr("sbv2bench.metrics.paper_precision_recall.BLOCK", size)
    found = paper_precision_recall(generated, reference)
    assert (found.precision, found.recall) == by_torch(generated, reference, 3, size)
    exact = precision_recall(generated, reference)
    assert (found.precision, found.recall) != (exact.precision, exact.recall)  # or rounding would have been idle


def test_a_point_is_not_always_nearest_to_itself() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 64)).astype(np.float32) * 3
    (_, distances), *_ = block_distances(rows, rows)
    assert np.diagonal(distances).max() > 0


@pytest.mark.parametrize("k", [3, 5])
def test_close_to_float64_at_the_norms_of_inception(golden: Sets, k: int) -> None:
    """|f|^2 near 500, which float16 holds."""
    generated, reference = (rows * np.sqrt(500 / 16) for rows in golden)
    exact = precision_recall(generated, reference, k)
    found = paper_precision_recall(generated, reference, k)
    assert abs(found.precision - exact.precision) < 0.005
    assert abs(found.recall - exact.recall) < 0.005


def test_a_block_that_is_not_finite_is_computed_in_float32(golden: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    """|f|^2 > 65504 in a block; the other blocks stay in float16."""
    generated, reference = (rows.astype(np.float32) * np.float32(np.sqrt(500 / 16)) for rows in golden)
    huge = reference.copy()
    huge[7] *= 30
    assert np.square(huge[7]).sum() > 65504
    tiles = dict(enumerate(distances for _, distances in block_distances(huge[:100], generated[:50])))
    wide = huge[:100].astype(np.float64), generated[:50].astype(np.float64)
    exact = ((wide[0][:, None] - wide[1]) ** 2).sum(axis=2)
    np.testing.assert_allclose(tiles[0], exact, rtol=1e-4, atol=1e-2)
    half = next(distances for _, distances in block_distances(reference[100:200], generated[:50]))
    assert np.array_equal(half, half.astype(np.float16))
    finite = tiles[0][tiles[0] < 6e4]
    assert not np.array_equal(finite, finite.astype(np.float16))
    for size in (50, 10_000):
        with monkeypatch.context() as patch:
            patch.setattr("sbv2bench.metrics.paper_precision_recall.BLOCK", size)
            found = paper_precision_recall(generated, huge)
        expected = by_torch(generated, huge, 3, size)
        assert (found.precision, found.recall) == pytest.approx(expected, abs=0.003)
    everywhere = paper_precision_recall(generated * 30, reference * 30)  # every block falls back: the plain measure
    plain = precision_recall(generated * 30, reference * 30)
    assert (everywhere.precision, everywhere.recall) == (plain.precision, plain.recall)


def test_an_overflowing_product_is_distance_0_and_no_fallback() -> None:
    """|f|^2 = 40,000 is a float16, 2 f.f is not: the formula's maximum turns -inf into 0, and all of the block is finite."""
    rows = np.stack([np.full(6, 200.0), 20.0 * np.arange(6)], axis=1).astype(np.float32)
    (_, distances), *_ = block_distances(rows, rows)
    tensor = torch.from_numpy(rows)
    assert np.array_equal(distances, block_by_torch(tensor, tensor).numpy())
    assert distances.max() == 0 < np.square(rows[5] - rows[0]).sum()


def test_conventions() -> None:
    """A set by hand, exact in float16; and a tight cluster: precise, with little recall."""
    reference, generated = np.array([0.0, 1, 2, 3, 10])[:, None], np.array([1.0, 4, 6, 30])[:, None]
    for k in (1, 2, 3):
        found = paper_precision_recall(generated, reference, k)
        assert (found.precision, found.recall) == (0.75, 1.0)
    assert np.sqrt(paper_radii(reference, 1)).tolist() == [1, 1, 1, 1, 7]
    rng = np.random.default_rng(3)
    wide = rng.standard_normal((300, 16)) * 5
    tight = paper_precision_recall(0.1 * wide[:200], wide)
    assert tight.precision > 0.9
    assert tight.recall < 0.1


def test_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((2500, 8), dtype=np.float32)
    monkeypatch.setattr("sbv2bench.metrics.paper_precision_recall.BLOCK", 250)
    tracemalloc.start()
    paper_radii(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # float16 of 2500 x 2500 is 12.5 MB


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generated": np.ones((3, 2))}, "generated features: 3 rows found, more than k = 3"),
        ({"reference": np.ones((3, 2))}, "reference features: 3 rows"),
        ({"k": 0}, "at least 1"),
        ({"generated": np.ones((8, 3))}, "D = 3"),
        ({"generated": np.full((8, 2), np.nan)}, "row 0"),
    ],
)
def test_refuses(change: dict[str, object], words: str) -> None:
    arguments: dict[str, object] = {"generated": np.eye(8, 2), "reference": np.eye(8, 2), **change}
    with pytest.raises(InputError, match=words):
        paper_precision_recall(**arguments)
