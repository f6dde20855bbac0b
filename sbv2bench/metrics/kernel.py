"""Kernel distance, the squared maximum mean discrepancy of the cubic kernel (Binkowski et al. 2018, "KID").

    k(x, y) = (x.y / D + 1)^3
    KD = mean over i != j of k(g_i, g_j) + mean over i != j of k(r_i, r_j) - 2 mean over i, j of k(g_i, r_j)

Unbiased, so it may be negative. Float64 throughout: the value is a small difference of numbers near one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64, as_feature_pair

Kernel = Callable[[Float64, Float64], Float64]  # rows [b, D], columns [c, D] -> [b, c]

_BLOCK = 1024
_MIN_SAMPLES = 2  # a pair of different rows


def cubic(rows: Float64, columns: Float64) -> Float64:
    """The cubic kernel [b, c] of two blocks [b, D] and [c, D]."""
    base: Float64 = rows @ columns.T
    base /= rows.shape[1]
    base += 1.0
    return base * base * base


def _blocks(features: Features) -> list[tuple[int, Features]]:
    return [(start, features[start : start + _BLOCK]) for start in range(0, len(features), _BLOCK)]


def sums_within(features: Features, kernel: Kernel) -> Float64:
    """For each row the sum of its kernel with every *other* row of the set, [N]; upper-triangle blocks only."""
    sums = np.zeros(len(features))
    for start, rows in _blocks(features):
        left = rows.astype(np.float64)
        own = kernel(left, left)
        np.fill_diagonal(own, 0.0)
        sums[start : start + len(left)] += own.sum(axis=1)
        for other, columns in _blocks(features):
            if other > start:
                found = kernel(left, columns.astype(np.float64))
                sums[start : start + len(left)] += found.sum(axis=1)
                sums[other : other + len(columns)] += found.sum(axis=0)
    return sums


def sums_across(generated: Features, reference: Features, kernel: Kernel) -> tuple[Float64, Float64]:
    """For each generated row the sum of its kernel with all reference rows [N], and the other way round [M]."""
    sums = np.zeros(len(generated)), np.zeros(len(reference))
    for start, rows in _blocks(generated):
        left = rows.astype(np.float64)
        for other, columns in _blocks(reference):
            found = kernel(left, columns.astype(np.float64))
            sums[0][start : start + len(left)] += found.sum(axis=1)
            sums[1][other : other + len(columns)] += found.sum(axis=0)
    return sums


def discrepancy(generated: Features, reference: Features, kernel: Kernel, *, biased: bool) -> tuple[float, float]:
    """(mean discrepancy of two sets, its standard error from each row's projection; Serfling 1980, section 5.5).

    biased: whether a row counts as another of its own set, of which the kernel is 1.
    """
    n, m = len(generated), len(reference)
    within = [(sums_within(rows, kernel) + biased) / (len(rows) - 1 + biased) for rows in (generated, reference)]
    to_reals, to_fakes = sums_across(generated, reference, kernel)
    first, second = within[0] - to_reals / m, within[1] - to_fakes / n
    std_err = math.sqrt(4 * float(first.var(ddof=1)) / n + 4 * float(second.var(ddof=1)) / m)
    # the cross mean sits once in each projection, so their means add up to the discrepancy
    return float(first.mean() + second.mean()), std_err


def kernel_statistics(generated: ArrayLike, reference: ArrayLike) -> tuple[float, float]:
    """(value, standard error) of the kernel distance of generated [N, D] and reference [M, D], in one blockwise pass.

    The standard error is that of a two-sample U-statistic to first order (Serfling 1980, section 5.5; Hoeffding's projection):

        a_i = mean over j != i of k(g_i, g_j) - mean over j of k(g_i, r_j),  b_j likewise with the sets exchanged
        std_err^2 = 4 var(a) / N + 4 var(b) / M      (var: sample variance, ddof 1)

    It assumes independent rows in both sets and counts the reference as a sample. Where both sets have one distribution
    the first-order term vanishes (the statistic is degenerate): value / std_err is then not normal and the standard error
    too large, by about sqrt 2; so it says how exact a distance clearly above zero is, and is no test of equality.
    Raises InputError for wrong shapes, values that are not finite, or fewer than two rows.
    """
    return discrepancy(*as_feature_pair(generated, reference, _MIN_SAMPLES), cubic, biased=False)


def kernel_distance(generated: ArrayLike, reference: ArrayLike) -> float:
    """Kernel distance of generated [N, D] and reference [M, D]: the full unbiased U-statistic, every pair used once.

    No random subsets, so no seed; N and M may differ. May be negative. Raises InputError as kernel_statistics does.
    """
    return kernel_statistics(generated, reference)[0]


def kernel_distance_subsets(
    generated: ArrayLike, reference: ArrayLike, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """(mean, population standard deviation) of the kernel distance over random subsets: KID as published.

    Rows are drawn without replacement, generated first, by numpy's RandomState(seed), as torch-fidelity draws them, so on
    equal features both agree. The deviation tells the spread at subset_size; it is not the standard error of
    kernel_distance. Raises InputError as kernel_statistics does, or if a set is smaller than subset_size.
    """
    gen, ref = as_feature_pair(generated, reference, _MIN_SAMPLES)
    smaller = min(len(gen), len(ref))
    if subsets < 1 or not _MIN_SAMPLES <= subset_size <= smaller:
        raise InputError(
            f"expected subsets >= 1 and subset_size from 2 to {smaller}, the smaller set; "
            f"found subsets = {subsets}, subset_size = {subset_size}",
            fix=f"pass subset_size={smaller}, or use kernel_distance, which needs no subsets",
        )
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        chosen_fakes = gen[random.choice(len(gen), subset_size, replace=False)]
        chosen_reals = ref[random.choice(len(ref), subset_size, replace=False)]
        values.append(kernel_distance(chosen_fakes, chosen_reals))
    return float(np.mean(values)), float(np.std(values))
