"""Errors of numbers that no formula gives an error (precision, recall, density, coverage): by disjoint blocks of both sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64, as_feature_pair

BLOCKS = 10

Statistic = Callable[[Features, Features], ArrayLike]  # (generated [n, D], reference [m, D]) -> S numbers


def blocked_std_errs(statistic: Statistic, generated: ArrayLike, reference: ArrayLike, blocks: int = BLOCKS) -> Float64:
    """Standard errors [S] of the S numbers statistic(generated [N, D], reference [M, D]).

    Block b has rows b, b + blocks, b + 2 blocks, ... of either set. The deviation of a number over the blocks, over
    sqrt(blocks), is the standard error of its mean over blocks; where its variance falls as 1 / N, it is that of the number of
    the whole sets as well. (Precision, recall, density and coverage have another mean in blocks, and their variance scales only
    nearly so: in simulation the error is right for D = 16 and up to 1.7 times too large where most of the mass is outside the
    balls, D = 128.)
    Raises InputError as statistic does, or unless blocks >= 2 and each block has a row of either set.
    """
    gen, ref = as_feature_pair(generated, reference, 2)
    if not 2 <= blocks <= min(len(gen), len(ref)):
        raise InputError(f"found {blocks} blocks of {len(gen)} and {len(ref)} rows, expected at least 2, none of them empty")
    found = np.array([statistic(gen[start::blocks], ref[start::blocks]) for start in range(blocks)], dtype=np.float64)
    std_errs: Float64 = found.std(axis=0, ddof=1) / math.sqrt(blocks)
    return std_errs


def least_share_std_err(share: float, n: int) -> float:
    """The binomial standard error of a share of n cases with two more of either kind, so never 0 (Agresti and Coull 1998)."""
    middle = (share * n + 2) / (n + 4)
    return math.sqrt(middle * (1 - middle) / (n + 4))


def errors_by_blocks(
    statistic: Statistic, generated: ArrayLike, reference: ArrayLike, values: Sequence[float], counts: Sequence[int | None]
) -> list[tuple[float, tuple[float, float]]]:
    """[(standard error, (low, high))] of values [S], which statistic gave of the whole sets.

    counts [S]: of how many images a number is a share, None where it is none. A share's error is at least that of so many
    independent cases (it is larger, since the balls of the other set are random as well, and near 0 or 1 ten blocks may all
    agree), and its interval stays within [0, 1]. The interval is Student's, 95 % nominal, with 9 degrees of freedom.
    Raises InputError as blocked_std_errs does.
    """
    from scipy.special import stdtrit  # importing the metrics must need numpy only

    quantile = float(stdtrit(BLOCKS - 1, 0.975))
    found = []
    for value, count, std_err in zip(values, counts, map(float, blocked_std_errs(statistic, generated, reference)), strict=True):
        if count is None:
            found.append((std_err, (value - quantile * std_err, value + quantile * std_err)))
            continue
        larger = max(std_err, least_share_std_err(value, count))
        found.append((larger, (max(0.0, value - quantile * larger), min(1.0, value + quantile * larger))))
    return found
