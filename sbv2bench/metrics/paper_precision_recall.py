"""Precision and recall as the paper's script computes them: distances in float16, block by block.

That evaluator casts both sides of a block of 10,000 x 10,000 features to float16 and forms max(|u|^2 - 2 u.v + |v|^2, 0)
there; only where a block has a value that is not finite is that block computed again in float32 (twice a product that
overflows is no such value: the maximum makes 0 of it). At squared norms of some hundreds float16 has steps of a quarter to
a half, so distances tie, a point need not be at distance 0 of itself, and <= admits more than it should. Which order
TensorFlow rounds in nobody has published: here products and sums are accumulated in float32 and every result that the
formula names is rounded to float16, as a GPU's half-precision kernels do.

These two numbers are for standing beside the paper's. `precision_recall` is the measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbv2bench.metrics.base import as_feature_pair, as_features, check_neighbours

BLOCK = 10_000  # part of the protocol: the float32 fallback is a block's
_TILE = 500  # rows of a block at a time: 20 MB of float32

Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]


@dataclass(frozen=True)
class PaperPrecisionRecall:
    """Fractions in [0, 1]."""

    precision: float
    recall: float


def _in_half(u: Float16, v: Float16) -> Float16:
    """Squared distances [b, c] of rows [b, D] and [c, D], each step of the formula rounded to float16; may be inf or NaN."""
    norms = [np.square(x.astype(np.float32)).astype(np.float16).sum(axis=1, dtype=np.float32).astype(np.float16) for x in (u, v)]
    products = (u.astype(np.float32) @ v.astype(np.float32).T).astype(np.float16)
    left = (norms[0].astype(np.float32)[:, None] - (2 * products.astype(np.float32)).astype(np.float16)).astype(np.float16)
    found: Float16 = np.maximum((left.astype(np.float32) + norms[1].astype(np.float32)).astype(np.float16), np.float16(0))
    return found


def _in_single(u: Float32, v: Float32) -> Float32:
    """The same formula in float32."""
    found: Float32 = np.square(u).sum(axis=1)[:, None] - 2 * (u @ v.T) + np.square(v).sum(axis=1)
    return np.maximum(found, np.float32(0))


def block_distances(u: Float32, v: Float32) -> Iterator[tuple[slice, Float32]]:
    """(rows, distances [t, c] float32) tile by tile of one block [b, c], in float16 if all of the block is finite there."""
    tiles = [slice(start, start + _TILE) for start in range(0, len(u), _TILE)]
    half = []
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = u.astype(np.float16), v.astype(np.float16)
        for rows in tiles:
            half.append(_in_half(rounded[0][rows], rounded[1]))
            if not np.isfinite(half[-1]).all():
                break
        else:
            yield from ((rows, tile.astype(np.float32)) for rows, tile in zip(tiles, half, strict=True))
            return
    half.clear()
    for rows in tiles:
        yield rows, _in_single(u[rows], v)


def _spans(count: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def paper_radii(features: ArrayLike, k: int = 3) -> Float32:
    """[N] float32: of every row of features [N, D] the (k + 1)-th smallest squared distance to any row, itself included.

    Raises InputError if N <= k, the shape is wrong, or a value is not finite.
    """
    rows = as_features(features, "given").astype(np.float32, copy=False)
    check_neighbours(rows, "given", k)
    nearest = np.full((len(rows), k + 1), np.inf, dtype=np.float32)
    for span in _spans(len(rows)):
        own = nearest[span]
        for other in _spans(len(rows)):
            for tile, distances in block_distances(rows[span], rows[other]):
                pool = np.concatenate([own[tile], distances], axis=1)
                own[tile] = np.partition(pool, k, axis=1)[:, : k + 1]
    radii: Float32 = nearest.max(axis=1)
    return radii


def paper_precision_recall(generated: ArrayLike, reference: ArrayLike, k: int = 3) -> PaperPrecisionRecall:
    """Precision and recall of generated [N, D] against reference [M, D] in the paper's arithmetic (see the module).

    Give it features of images shown blue first for the paper's numbers. All pairs are computed, as rounding makes distances
    unsymmetric: about four times the cost of `precision_recall`, and at most 300 MB beyond the features. Raises InputError as
    `precision_recall` does.
    """
    gen, ref = (rows.astype(np.float32, copy=False) for rows in as_feature_pair(generated, reference))
    for rows, name in ((gen, "generated"), (ref, "reference")):
        check_neighbours(rows, name, k)
    fake_radii, real_radii = paper_radii(gen, k), paper_radii(ref, k)
    precise, recalled = np.zeros(len(gen), bool), np.zeros(len(ref), bool)
    for span in _spans(len(ref)):
        for other in _spans(len(gen)):
            for tile, distances in block_distances(ref[span], gen[other]):  # the reference's rows first, as there
                recalled[span][tile] |= (distances <= fake_radii[other]).any(axis=1)
                precise[other] |= (distances <= real_radii[span][tile, None]).any(axis=0)
    return PaperPrecisionRecall(precision=float(precise.mean()), recall=float(recalled.mean()))
