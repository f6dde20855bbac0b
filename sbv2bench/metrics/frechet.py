"""Fréchet distance between two sets of features (Heusel et al. 2017, eq. 6; Dowson and Landau 1982).

    FD = |m_g - m_r|^2 + tr S_g + tr S_r - 2 tr (S_g S_r)^(1/2)

With any roots A A' = S_g and B B' = S_r, the last trace is the sum of the singular values of A' B. So nothing here needs
the square root of a matrix, a complex number or an epsilon, and singular covariances (N <= D) are ordinary input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Float64, as_feature_pair, as_features

_SLAB_ELEMENTS = 2**23  # 64 MB of float64 at a time, whatever N is
_MIN_SAMPLES = 2  # a covariance needs two


@dataclass(frozen=True, eq=False)
class Moments:
    """mean [D] and unbiased covariance [D, D] (divided by n - 1) of a set of features, float64."""

    mean: Float64
    covariance: Float64

    @classmethod
    def of(cls, features: ArrayLike) -> Moments:
        """Of features [N, D], N >= 2, a slab at a time. Raises InputError for a wrong shape or values that are not finite."""
        rows = as_features(features, "given", _MIN_SAMPLES)
        mean = rows.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((len(mean), len(mean)))
        step = max(1, _SLAB_ELEMENTS // len(mean))
        for start in range(0, len(rows), step):
            centred = rows[start : start + step] - mean
            scatter += centred.T @ centred
        return cls(mean, scatter / (len(rows) - 1))


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
