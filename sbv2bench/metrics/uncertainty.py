"""How far a number may be off: standard errors and intervals of means, groups, and the Fréchet distance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64, as_feature_pair
from sbv2bench.metrics.frechet import Moments, factor

_SLAB_ELEMENTS = 2**22  # 32 MB of float64 at a time


def _as_values(values: ArrayLike) -> Float64:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise InputError(f"expected a list of at least one finite number, found shape {list(array.shape)}")
    return array


def mean_and_std_err(values: ArrayLike) -> tuple[float, float | None]:
    """(mean, standard error of the mean) of independent values [N]: sample deviation (ddof 1) over sqrt N.

    One value has no standard error: None. Raises InputError for an empty list or values that are not finite.
    """
    array = _as_values(values)
    if len(array) == 1:
        return float(array[0]), None
    return float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array))


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float] | None:
    """(low, high) of Student's interval for the mean of independent, roughly normal values [N]; None for one value.

    For repeats with different seeds. Raises InputError as mean_and_std_err does, or unless 0 < level < 1.
    """
    from scipy.special import stdtrit  # importing the metrics must need numpy only

    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, found {level}", fix="pass level=0.95")
    mean, std_err = mean_and_std_err(values)
    if std_err is None:
        return None
    reach = float(stdtrit(len(_as_values(values)) - 1, (1 + level) / 2)) * std_err
    return mean - reach, mean + reach


def group_deviation(scores: ArrayLike, group: int = 80) -> tuple[float, float]:
    """(mean of group means, their population standard deviation) over consecutive groups of scores [N].

    HPSv2's printed pair (tgxs002/HPSv2: hpsv2/evaluation.py): 800 scores a style in index order, 10 groups of 80. A short
    last group counts as much as a full one, so with missing images the first number is not the pooled mean.
    Raises InputError as mean_and_std_err does, or if group < 1.
    """
    array = _as_values(scores)
    if group < 1:
        raise InputError(f"group must be at least 1, found {group}", fix="pass group=80")
    means = [array[start : start + group].mean() for start in range(0, len(array), group)]
    return float(np.mean(means)), float(np.std(means))


def _influence_variance(features: Features, moments: Moments, push: Float64, root: Float64) -> float:
    """Sample variance of 2 push.(x - m) + |x - m|^2 - |root (x - m)|^2 over the rows x of features [N, D]."""
    influences = np.empty(len(features))
    step = max(1, _SLAB_ELEMENTS // features.shape[1])
    for start in range(0, len(features), step):
        centred = features[start : start + step] - moments.mean
        mapped = centred @ root.T
        squares = np.einsum("nd,nd->n", centred, centred) - np.einsum("nr,nr->n", mapped, mapped)
        influences[start : start + step] = 2 * (centred @ push) + squares
    return float(influences.var(ddof=1))


def _whitening(root: Float64) -> Float64:
    """The pseudo-inverse [r, D] of root [D, r], which has full column rank."""
    from scipy.linalg import solve_triangular

    basis, triangle = np.linalg.qr(root)
    inverse: Float64 = solve_triangular(triangle, basis.T)
    return inverse


def frechet_std_err(generated: ArrayLike, reference: ArrayLike) -> float:
    """Standard error of frechet_distance(generated [N, D], reference [M, D]), both taken as samples of independent rows.

    Delta method: the first-order von Mises expansion of FD(P, Q). With d = m_g - m_r and T the optimal transport map from
    N(0, S_g) to N(0, S_r) (symmetric, T S_g T = S_r), the derivative of tr (S_g S_r)^(1/2) along a change dS_g is
    tr(T dS_g) / 2, so one generated row x moves FD by

        I_g(x) = 2 d.(x - m_g) + |x - m_g|^2 - (x - m_g)' T (x - m_g) - const

    and one reference row y by I_r(y), the same with -d and T^-1;   std_err^2 = var I_g / N + var I_r / M.

    With roots S_g = A A', S_r = B B' and the singular value decomposition A' B = U s V', T is A^+' U s U' A^+, hence
    x' T x = |s^(1/2) U' A^+ x|^2, with no square root or inverse of a covariance, and dead features do no harm.

    No shape of distribution is assumed beyond finite fourth moments. It says nothing of the bias of FD, of order D^2 / N.
    Where the two distributions are equal the first order vanishes, and what this returns is not a standard error. Against
    simulation of Gaussians clearly apart it is within 6 % at N = M = 1000, D = 16, and too large (so: on the safe side) by
    9, 12 and 18 % at N = 6, 3 and 1.6 times D.
    Raises InputError as frechet_distance does, or unless N and M exceed D.
    """
    fakes, reals = as_feature_pair(generated, reference, 2)
    dimension = fakes.shape[1]
    if min(len(fakes), len(reals)) <= dimension:
        raise InputError(
            f"the standard error of FD needs more rows than D = {dimension}; found {len(fakes)} and {len(reals)}",
            fix="use more images, or repeat with other seeds and use t_interval",
        )
    of_fakes, of_reals = Moments.of(fakes), Moments.of(reals)
    root_fakes, root_reals = factor(of_fakes.covariance), factor(of_reals.covariance)
    left, values, right = np.linalg.svd(root_fakes.T @ root_reals, full_matrices=False)
    stretch = np.sqrt(values)[:, None]
    push = of_fakes.mean - of_reals.mean
    variance_fakes = _influence_variance(fakes, of_fakes, push, stretch * (left.T @ _whitening(root_fakes)))
    variance_reals = _influence_variance(reals, of_reals, -push, stretch * (right @ _whitening(root_reals)))
    return math.sqrt(variance_fakes / len(fakes) + variance_reals / len(reals))
