"""Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1-3), density and coverage (Naeem et al. 2020, eq. 3, 5).

The ball of a point reaches to its k-th nearest *other* point of its own set; a point on the boundary is inside (<=).

Cost is one matrix product a pair of blocks: half squared distances |x|^2/2 + |y|^2/2 - x.y, only the upper triangle of the
two self-distance matrices, one cross pass for all four numbers, and never more than a few blocks in memory.

Exactness: the product runs in the features' own precision and is turned into a *lower bound* of the distance. Bound and
rounding slack settle nearly every comparison; the few pairs that they leave open are computed again from the features,
coordinate by coordinate in float64. So the result is that of float64 arithmetic, ties and duplicates included, and does not
depend on the block size, the threads or the BLAS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64, as_feature_pair, as_features, check_neighbours
from sbv2bench.metrics.lower_bounds import Blocks, Floats, Indices, full_precision, pair_bounds

_SPARE = 2  # neighbours kept beyond k, so that rounding seldom leaves the k-th in doubt


@dataclass(frozen=True)
class PrecisionRecall:
    """precision, recall, coverage: fractions in [0, 1]; density >= 0, may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


class _Nearest:
    """The running keep smallest values of each row, with the column that each came from."""

    def __init__(self, n: int, keep: int) -> None:
        self.values = np.full((n, keep), np.inf)
        self.columns = np.zeros((n, keep), dtype=np.intp)

    def take(self, span: slice, rows: Indices, columns: Indices, values: Floats) -> None:
        """Offer values [P] at (rows, columns); rows count from the start of span."""
        count = span.stop - span.start
        hits = np.bincount(rows, minlength=count)
        width, keep = int(hits.max(initial=0)), self.values.shape[1]
        if width == 0:
            return
        order = np.argsort(rows, kind="stable")
        place = keep + np.arange(len(rows)) - np.repeat(np.cumsum(hits) - hits, hits)
        pool = np.full((count, keep + width), np.inf)
        source = np.zeros((count, keep + width), dtype=np.intp)
        pool[:, :keep], source[:, :keep] = self.values[span], self.columns[span]
        pool[rows[order], place], source[rows[order], place] = values[order], columns[order]
        best = np.argpartition(pool, keep - 1, axis=1)[:, :keep]
        self.values[span] = np.take_along_axis(pool, best, axis=1)
        self.columns[span] = np.take_along_axis(source, best, axis=1)


def _search(points: Blocks, nearest: _Nearest) -> None:
    """Fill nearest with the smallest lower bounds of every point to others of its set; upper-triangle blocks only."""
    keep = nearest.values.shape[1]
    for start in points.starts:
        block = points.block(start)
        for other_start in points.starts[start // points.step :]:
            other = block if other_start == start else points.block(other_start)
            bounds = pair_bounds(block, other)
            if other is block:
                bounds.leave_out_diagonal()
            worst = nearest.values[block.span].max(axis=1).astype(points.dtype)
            i, j, values = bounds.within(np.minimum(worst, bounds.ceiling(keep, 1))[:, None])
            nearest.take(block.span, i, j + other.start, values)
            if other is not block:  # the same product serves the points of the columns
                worst = nearest.values[other.span].max(axis=1).astype(points.dtype)
                i, j, values = bounds.within(np.minimum(worst, bounds.ceiling(keep, 0)))
                nearest.take(other.span, j, i + block.start, values)


def _half_radii(points: Blocks, k: int) -> Float64:
    """Exact half squared distance of every point to its k-th nearest other point, [N] float64."""
    n = len(points.features)
    nearest = _Nearest(n, min(k + _SPARE, n - 1))
    _search(points, nearest)
    lower = nearest.values
    upper = lower + points.slack(np.arange(n)[:, None], points, nearest.columns)
    least, most = (np.partition(bounds, k - 1, axis=1)[:, k - 1 : k] for bounds in (lower, upper))
    # a kept neighbour is surely nearer than the k-th, surely farther, or open: only the open ones are computed again
    distances = np.where(upper < least, -np.inf, np.where(lower > most, np.inf, np.nan))
    i, slot = np.nonzero(np.isnan(distances))
    distances[i, slot] = points.exact(i, points, nearest.columns[i, slot])
    half = np.partition(distances, k - 1, axis=1)[:, k - 1]
    if nearest.values.shape[1] < n - 1:
        open_rows = np.flatnonzero((half > lower.max(axis=1)) & (half > 0))
        half[open_rows] = _settle(points, open_rows, half[open_rows], k)
    return half


def _settle(points: Blocks, index: Indices, limits: Float64, k: int) -> Float64:
    """Exact half radii of the points of index, where a neighbour that was not kept might be nearer than limits, the k-th
    of those that were: everything within limits is computed exactly. Rare, but for clusters tighter than rounding."""
    exact = _Nearest(len(index), k)
    for start in range(0, len(index), points.step):
        chosen = index[start : start + points.step]
        block = Blocks(points.features[chosen], points.mean, points.device).block(0)
        for other_start in points.starts:
            bounds = pair_bounds(block, points.block(other_start))
            i, j, _ = bounds.within(limits[start : start + points.step, None])
            j = j + other_start
            others = chosen[i] != j
            i, j = i[others], j[others]
            exact.take(slice(start, start + len(chosen)), i, j, points.exact(chosen[i], points, j))
    settled: Float64 = exact.values.max(axis=1)
    return settled


def _inside(
    generated: Blocks, reference: Blocks, pairs: tuple[Indices, Indices], lower: Floats, radii_of: Float64
) -> NDArray[np.bool_]:
    """Whether half distances of pairs are <= half radii, all [P]; lower: their bounds, none above its radius."""
    i, j = pairs
    inside = lower + generated.slack(i, reference, j) <= radii_of
    open_pairs = np.flatnonzero(~inside)
    inside[open_pairs] = generated.exact(i[open_pairs], reference, j[open_pairs]) <= radii_of[open_pairs]
    return inside


def _working_dtype(*sets: Features) -> np.dtype[np.floating]:
    return np.result_type(np.float32, *sets)


def radii(features: ArrayLike, k: int = 3, *, device: str = "cpu") -> Float64:
    """Squared distance of every row of features [N, D] to its k-th nearest other row: [N] float64, worth caching for a
    reference set. device: as for `precision_recall`. Raises InputError if N <= k, the shape is wrong, or a value is not
    finite."""
    rows = as_features(features, "given")
    check_neighbours(rows, "given", k)
    with full_precision(device) as where:
        return 2 * _half_radii(Blocks(rows, rows.mean(axis=0, dtype=_working_dtype(rows)), where), k)


def precision_recall(
    generated: ArrayLike, reference: ArrayLike, k: int = 3, *, reference_radii: ArrayLike | None = None, device: str = "cpu"
) -> PrecisionRecall:
    """Precision, recall, density and coverage of generated [N, D] against reference [M, D].

    precision: fraction of generated points in some reference point's ball; recall: fraction of reference points in some
    generated point's ball; density: mean over generated points of the number of reference balls that hold it, over k;
    coverage: fraction of reference balls that hold a generated point. All four move with N and M: compare equal sizes only.
    reference_radii: radii(reference, k) if at hand [M]. Float64 is computed in float64, float16 and float32 in float32 (see
    the module for why the result is exact, on any device). Beyond the features it needs at most about 100 MB.
    device: a CUDA device holds both sets and makes the products; any other leaves them to the CPU.
    Raises InputError for wrong shapes, values that are not finite, or a set with no more than k rows.
    """
    rows = as_feature_pair(generated, reference)
    for features, name in zip(rows, ("generated", "reference"), strict=True):
        check_neighbours(features, name, k)
    if reference_radii is None:
        reference_half = radii(rows[1], k, device=device) / 2
    else:
        reference_half = np.asarray(reference_radii, dtype=np.float64) / 2
        if reference_half.shape != (len(rows[1]),) or not (np.isfinite(reference_half).all() and (reference_half >= 0).all()):
            raise InputError(
                f"reference_radii must be {len(rows[1])} finite squared distances, found shape {list(reference_half.shape)}",
                fix="pass radii(reference, k)",
            )
    generated_half = radii(rows[0], k, device=device) / 2

    mean = rows[1].mean(axis=0, dtype=_working_dtype(*rows))
    # rounding a radius moves it by less than the slack, so no pair inside is lost
    reach_fakes, reach_reals = generated_half.astype(mean.dtype)[:, None], reference_half.astype(mean.dtype)[None, :]
    precise, covered, recalled = np.zeros(len(rows[0]), bool), np.zeros(len(rows[1]), bool), np.zeros(len(rows[1]), bool)
    held = 0
    with full_precision(device) as where:
        gen, ref = (Blocks(features, mean, where) for features in rows)
        for start in gen.starts:
            block = gen.block(start)
            for other_start in ref.starts:
                other = ref.block(other_start)
                bounds = pair_bounds(block, other)
                i, j, lower = bounds.within(reach_reals[:, other.span])
                i, j = i + start, j + other_start
                inside = _inside(gen, ref, (i, j), lower, reference_half[j])
                precise[i[inside]] = covered[j[inside]] = True
                held += int(np.count_nonzero(inside))
                i, j, lower = bounds.within(reach_fakes[block.span])
                i, j = i + start, j + other_start
                recalled[j[_inside(gen, ref, (i, j), lower, generated_half[i])]] = True
    return PrecisionRecall(
        precision=float(precise.mean()),
        recall=float(recalled.mean()),
        density=held / (k * len(rows[0])),
        coverage=float(covered.mean()),
    )
