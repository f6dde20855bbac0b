"""CLIP maximum mean discrepancy (Jayasumana et al. 2024, "Rethinking FID"), as google-research/cmmd computes it.

    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)) of embeddings of unit length, sigma = 10
    CMMD = 1,000 (mean over i, j of k(g_i, g_j) + mean over i, j of k(r_i, r_j) - 2 mean over i, j of k(g_i, r_j))

The means within a set count each row with itself, so the estimate is biased upwards, by about 1,000 (1 - mean kernel) / N for
either set. Distances of unit vectors are small beside sigma, so it is nearly 10 |difference of the mean embeddings|^2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.metrics.base import Float64, as_feature_pair
from sbv2bench.metrics.kernel import discrepancy
from sbv2bench.metrics.paired_cosine import unit_rows

SIGMA, SCALE = 10.0, 1000.0


def _gaussian(rows: Float64, columns: Float64) -> Float64:
    """The kernel [b, c] of unit rows [b, D] and [c, D], whose squared distance is 2 - 2 cosine."""
    return np.exp((rows @ columns.T - 1.0) / SIGMA**2)


def cmmd_statistics(generated: ArrayLike, reference: ArrayLike) -> tuple[float, float]:
    """(value, standard error) of the CMMD of generated [N, D] and reference [M, D], blockwise in float64.

    Neither needs unit length. The standard error is kernel_statistics': to first order, too large where both sets have one
    distribution. Raises InputError for wrong shapes, values that are not finite, fewer than two rows, or a row of zeros.
    """
    gen, ref = as_feature_pair(generated, reference, 2)
    value, std_err = discrepancy(unit_rows(gen, "generated"), unit_rows(ref, "reference"), _gaussian, biased=True)
    return SCALE * max(0.0, value), SCALE * std_err  # below only by rounding


def cmmd(generated: ArrayLike, reference: ArrayLike) -> float:
    """CLIP maximum mean discrepancy of embeddings generated [N, D] and reference [M, D]: at least 0, lower is better.

    L2-normalised, biased, sigma 10, times 1,000. Raises InputError as cmmd_statistics does.
    """
    return cmmd_statistics(generated, reference)[0]
