"""FID-infinity: the Fréchet distance of ever more images, by extrapolating its bias of order 1/N away (Chong and Forsyth 2020).

The protocol, all of it fixed. For k = 1 .. K both sets are cut into k disjoint parts of equal size, N // k and M // k rows, by
one permutation of each set for each k (numpy's RandomState(seed), generated first; what is left over is left out). d_k is the
mean Fréchet distance of the k pairs of parts. The least-squares line through (k, d_k), which is a line in 1/N, has the value
FID-infinity at k = 0. K is 5, or the largest number for which a part of either set has 3 D rows, since below the bias is no
longer a line in 1/N; K must be at least 2.

It departs from the paper where that makes it exacter: both sets shrink together (there the generated one alone, so that the
reference's bias stays), the parts of one k are disjoint and together everything (there one random subset for each of 15 sizes),
and nothing is drawn from Sobol sequences, since the images are given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import as_feature_pair
from sbv2bench.metrics.frechet import frechet_distance
from sbv2bench.metrics.uncertainty import frechet_statistics

MOST_PARTS = 5
ROWS_PER_DIMENSION = 3  # rows that a part has for each of the D features, or more


@dataclass(frozen=True)
class FrechetInfinity:
    """value: in the features' unit squared; unbiased to order 1/N, so it may be negative. std_err: its standard error.

    slope: of the line in 1/N, by the generated set's N. distances: {rows of the generated set in a part: mean distance}.
    """

    value: float
    std_err: float
    slope: float
    distances: dict[int, float]


def frechet_infinity(generated: ArrayLike, reference: ArrayLike, seed: int = 0) -> FrechetInfinity:
    """FID-infinity of generated [N, D] and reference [M, D], both taken as samples of independent rows; float64.

    Standard error: that of frechet_statistics. All d_k have the whole sets' first-order error, and the line's weights sum to 1,
    so it is the intercept's as well. Of the second order, the pairs of rows, the weights make twice what FD has (for every K
    from 2 to 5: 1 + the sum of w_k^2 (k - 1) is 2), and twice is how often frechet_statistics counts it.
    Raises InputError as frechet_distance does, or for sets with fewer than 6 D rows.
    """
    gen, ref = as_feature_pair(generated, reference, 2)
    smaller, dimension = min(len(gen), len(ref)), gen.shape[1]
    parts = min(MOST_PARTS, smaller // (ROWS_PER_DIMENSION * dimension))
    whole, std_err = frechet_statistics(gen, ref)
    if parts < 2 or std_err is None:
        least = 2 * ROWS_PER_DIMENSION * dimension
        raise InputError(f"FID-infinity of D = {dimension} features: found {smaller} rows, at least {least} expected", "use fid")
    random = np.random.RandomState(seed)
    distances = {len(gen): whole}
    for count in range(2, parts + 1):
        rows = [random.permutation(len(features))[: len(features) // count * count] for features in (gen, ref)]
        pairs = zip(*(np.split(order, count) for order in rows), strict=True)
        distances[len(gen) // count] = float(np.mean([frechet_distance(gen[left], ref[right]) for left, right in pairs]))
    inverse, means = 1 / (len(gen) / np.arange(1, parts + 1)), np.array(list(distances.values()))
    apart = inverse - np.mean(inverse)
    slope = float(apart @ (means - means.mean()) / (apart @ apart))
    return FrechetInfinity(float(means.mean() - slope * np.mean(inverse)), std_err, slope, distances)
