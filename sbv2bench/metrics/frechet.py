"""Fréchet distance between two sets of features (Heusel et al. 2017, eq. 6; Dowson and Landau 1982).

    FD = |m_g - m_r|^2 + tr S_g + tr S_r - 2 tr (S_g S_r)^(1/2)

With any roots A A' = S_g and B B' = S_r, the last trace is the sum of the singular values of A' B. So nothing here needs
the square root of a matrix, a complex number or an epsilon, and singular covariances (N <= D) are ordinary input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Float64, as_feature_pair, as_features

_SLAB_ELEMENTS = 2**23  # 64 MB of float64 at a time, whatever N is
_MIN_SAMPLES = 2  # a covariance needs two


@dataclass(eq=False)
class Moments:
    """Streamed sufficient statistics of a set of features, float64.

    n: number of rows; mean: [D]; scatter: [D, D], the sum of outer products of the rows *centred on the mean*. Keeping
    the sum of squares centred loses no digits when the mean is large (Chan, Golub and LeVeque 1983). The same blocks
    merged in the same order give the same bits.
    """

    n: int
    mean: Float64
    scatter: Float64

    @classmethod
    def zeros(cls, dimension: int) -> Self:
        """The statistics of no rows at all."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, features: ArrayLike) -> Self:
        """Statistics of features [N, D], N >= 1. Raises InputError for a wrong shape or values that are not finite."""
        rows = as_features(features, "given")
        mean = rows.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((len(mean), len(mean)))
        step = max(1, _SLAB_ELEMENTS // len(mean))
        for start in range(0, len(rows), step):
            centred = rows[start : start + step] - mean
            scatter += centred.T @ centred
        return cls(len(rows), mean, scatter)

    def update(self, block: ArrayLike) -> Self:
        """Take in the rows of block [N, D], in place; the same bits as merge(Moments.of(block))."""
        return self.merge(Moments.of(block))

    def merge(self, other: Moments) -> Self:
        """Take in another set's statistics, in place. Raises InputError if D differs."""
        if other.mean.shape != self.mean.shape:
            raise InputError(f"cannot merge moments of D = {len(other.mean)} into moments of D = {len(self.mean)}")
        if self.n == 0 or other.n == 0:
            source = self if other.n == 0 else other
            self.n, self.mean, self.scatter = source.n, source.mean.copy(), source.scatter.copy()
            return self
        total = self.n + other.n
        gap = other.mean - self.mean
        self.scatter = self.scatter + other.scatter + np.outer(gap, gap * (self.n * other.n / total))
        self.mean = self.mean + gap * (other.n / total)
        self.n = total
        return self

    @property
    def covariance(self) -> Float64:
        """Unbiased covariance [D, D] (divided by n - 1). Raises InputError if n < 2."""
        if self.n < _MIN_SAMPLES:
            raise InputError(f"a covariance needs at least {_MIN_SAMPLES} rows, found {self.n}", fix="use more images")
        return self.scatter / (self.n - 1)


def factor(covariance: NDArray[np.float64]) -> Float64:
    """L [D, r] with L L' = covariance [D, D] and r its numerical rank: pivoted Cholesky (LAPACK dpstrf).

    The covariance is first scaled to unit variances, so that rank is judged against each feature's own variance and a
    feature with a small one is not lost beside a large one. Raises InputError if it is not square, symmetric and finite.
    """
    from scipy.linalg.lapack import dpstrf  # importing the metrics must need numpy only

    matrix = np.asarray(covariance, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a covariance must have shape [D, D], found {list(matrix.shape)}")
    variances = np.diagonal(matrix)
    if not (np.isfinite(matrix.min()) and np.isfinite(matrix.max()) and variances.min() >= 0):
        raise InputError("a covariance must be finite, with variances >= 0")
    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    scaled = matrix / scale
    scaled /= scale[:, None]
    triangle, pivots, rank, info = dpstrf(scaled.T, lower=1, overwrite_a=1)  # the transpose lies as LAPACK wants it
    if info < 0:
        raise InputError(f"LAPACK dpstrf refused argument {-info} of a covariance of shape {list(matrix.shape)}")
    root = np.empty((len(matrix), rank))
    root[pivots - 1] = np.tril(triangle[:, :rank])
    root *= scale[:, None]
    return root


def _centred_root(features: NDArray[np.floating], mean: Float64) -> Float64:
    """A [D, n - 1] with A A' the covariance of features [n, D]: a Householder reflection takes the constant vector to the
    first axis, so that the one direction which centring empties is left out exactly instead of as rounding noise."""
    n = len(features)
    centred = features - mean
    mirror = np.full(n, 1 / np.sqrt(n))
    mirror[0] += 1.0
    centred -= np.outer(mirror, (mirror @ centred) * (2 / (mirror @ mirror)))
    root: Float64 = centred[1:].T / np.sqrt(n - 1)
    return root


def _nuclear_norm(matrix: Float64) -> float:
    """Sum of the singular values of matrix [p, q].

    By the eigenvalues of its smaller Gram matrix (a third of the time), which square it: a singular value below the
    square root of machine precision would be noise. Where one is that small, by a proper singular value decomposition.
    """
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if small.shape[0] == 0:
        return 0.0
    squares = np.linalg.eigvalsh(small @ small.T)
    if squares[0] > len(squares) * np.finfo(np.float64).eps * squares[-1]:
        return float(np.sqrt(squares).sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def distance_of_roots(means: tuple[Float64, Float64], roots: tuple[Float64, Float64]) -> float:
    """The formula of the module, from the means [D] and roots [D, r] of the generated and the reference set."""
    shift = means[0] - means[1]
    traces = float(np.vdot(roots[0], roots[0]) + np.vdot(roots[1], roots[1]))
    distance = float(shift @ shift) + traces - 2 * _nuclear_norm(roots[0].T @ roots[1])
    return max(0.0, distance)


def frechet_from_moments(generated: Moments, reference: Moments, reference_factor: Float64 | None = None) -> float:
    """Fréchet distance from moments, >= 0, in the features' unit squared.

    reference_factor: factor(reference.covariance), if it is at hand: it saves a decomposition.
    Raises InputError if D differs or a set has fewer than two rows.
    """
    dimensions = len(generated.mean), len(reference.mean)
    if dimensions[0] != dimensions[1]:
        raise InputError(f"generated moments have D = {dimensions[0]}, reference moments D = {dimensions[1]}")
    root = factor(reference.covariance) if reference_factor is None else reference_factor
    if root.ndim != 2 or root.shape[0] != dimensions[1]:
        raise InputError(f"reference_factor must have shape [{dimensions[1]}, r], found {list(root.shape)}")
    return distance_of_roots((generated.mean, reference.mean), (factor(generated.covariance), root))


def frechet_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Fréchet distance between features [N, D] and [M, D], >= 0, in the features' unit squared; computed in float64.

    Covariances are unbiased (ddof 1), as in pytorch-fid, clean-fid, torch-fidelity and torchmetrics. A set with N <= D
    enters by its own centred rows (the Gram form, exact where the covariance is singular), a larger one by the pivoted
    Cholesky factor of its covariance. FD has a bias of order 1/N: values at different N do not compare.
    Raises InputError for wrong shapes, values that are not finite, or fewer than two rows.
    """
    means, roots = [], []
    for rows in as_feature_pair(generated, reference, _MIN_SAMPLES):
        if len(rows) <= rows.shape[1]:
            means.append(rows.mean(axis=0, dtype=np.float64))
            roots.append(_centred_root(rows, means[-1]))
        else:
            moments = Moments.of(rows)
            means.append(moments.mean)
            roots.append(factor(moments.covariance))
    return distance_of_roots((means[0], means[1]), (roots[0], roots[1]))


def extrapolate(n_values: Sequence[float], distances: Sequence[float]) -> tuple[float, float]:
    """(intercept, slope) of the least-squares line distance = intercept + slope / n.

    With Fréchet distances of subsets of size n, the intercept is FID-infinity (Chong and Forsyth 2020, section 4): the
    bias of order 1/n is gone, noise and the common set behind the subsets are not.
    Raises InputError unless there are as many n as distances, all n > 0, and at least two different n.
    """
    n, y = np.asarray(n_values, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    if n.ndim != 1 or n.shape != y.shape or not (np.isfinite(n).all() and np.isfinite(y).all()) or not (n > 0).all():
        raise InputError(f"expected as many finite distances as positive n, found shapes {list(n.shape)} and {list(y.shape)}")
    if len(np.unique(n)) < _MIN_SAMPLES:
        raise InputError("a line in 1/n needs at least two different n")
    x = 1 / n - np.mean(1 / n)
    slope = float(x @ (y - y.mean()) / (x @ x))
    return float(y.mean() - slope * np.mean(1 / n)), slope
