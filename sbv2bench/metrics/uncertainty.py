"""How far a number may be off: standard errors and intervals of means, groups, shares and the Fréchet distance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64, as_feature_pair
from sbv2bench.metrics.frechet import Moments, distance_of_roots, factor, frechet_distance

_SLAB_ELEMENTS = 2**22  # 32 MB of float64 at a time
_NORMAL_REACH = 1.959963984540054  # 97.5 % quantile of the normal distribution


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


def normal_interval(value: float, std_err: float) -> tuple[float, float]:
    """(low, high) that covers 95 % of the time where value is normal with a known standard error: value +- 1.96 std_err."""
    return value - _NORMAL_REACH * std_err, value + _NORMAL_REACH * std_err


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """(low, high): Wilson's 95 % interval (1927) of a share in [0, 1] of n independent cases; right near 0 and 1, too.

    Raises InputError for another share, or n < 1.
    """
    if not (0 <= share <= 1 and n >= 1):
        raise InputError(f"expected a share from 0 to 1 of at least one case, found {share} of {n}")
    square = _NORMAL_REACH**2 / n
    centre = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return max(0.0, centre - reach), min(1.0, centre + reach)


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


def frechet_statistics(generated: ArrayLike, reference: ArrayLike) -> tuple[float, float | None]:
    """(value, standard error) of the Fréchet distance of generated [N, D] and reference [M, D], from the same moments and roots.

    The value is frechet_distance's to the last bit; the error is None unless N and M exceed D. Both sets are taken as samples
    of independent rows. Delta method: the first-order von Mises expansion of FD(P, Q). With d = m_g - m_r and T the optimal
    transport map from N(0, S_g) to N(0, S_r) (symmetric, T S_g T = S_r), the derivative of tr (S_g S_r)^(1/2) along a change
    dS_g is tr(T dS_g) / 2, so one generated row x moves FD by

        I_g(x) = 2 d.(x - m_g) + |x - m_g|^2 - (x - m_g)' T (x - m_g) - const

    and one reference row y by I_r(y), the same with -d and T^-1;   std_err^2 = var I_g / N + var I_r / M.

    With roots S_g = A A', S_r = B B' and the singular value decomposition A' B = U s V', T is A^+' U s U' A^+, hence
    x' T x = |s^(1/2) U' A^+ x|^2, with no square root or inverse of a covariance, and dead features do no harm.

    No shape of distribution is assumed beyond finite fourth moments. It is the error around the expectation of FD at these N
    and M, bias of order D^2 / N included. As every jackknife it counts the second-order part of the variance twice: nothing
    where FD is large beside its bias; a standard error 12 to 15 % too large where FD is about twice what equal distributions
    would give; and where they are equal, so that the first order vanishes, 1.3 to 1.4 times too large. leaderboards/coverage.md
    has the measured coverage. Cost: about 4 (N + M) D^2 + 40 D^3 operations, twice that of the value alone: 8 ms at N = M = 5000,
    D = 64; about 1.5 TFLOP, a minute on two slow cores, at N = 30,000, M = 40,504, D = 2048.
    Raises InputError as frechet_distance does.
    """
    gen, ref = as_feature_pair(generated, reference, 2)
    if min(len(gen), len(ref)) <= gen.shape[1]:
        return frechet_distance(gen, ref), None
    of_generated, of_reference = Moments.of(gen), Moments.of(ref)
    root_generated, root_reference = factor(of_generated.covariance), factor(of_reference.covariance)
    value = distance_of_roots((of_generated.mean, of_reference.mean), (root_generated, root_reference))
    left, values, right = np.linalg.svd(root_generated.T @ root_reference, full_matrices=False)
    stretch = np.sqrt(values)[:, None]
    push = of_generated.mean - of_reference.mean
    variance_generated = _influence_variance(gen, of_generated, push, stretch * (left.T @ _whitening(root_generated)))
    variance_reference = _influence_variance(ref, of_reference, -push, stretch * (right @ _whitening(root_reference)))
    return value, math.sqrt(variance_generated / len(gen) + variance_reference / len(ref))
