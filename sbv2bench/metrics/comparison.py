"""Is one number really below another: differences of means with intervals and p-values, paired or not, one or many.

Textbook statistics, here in one place because every table of differences must use the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error and the degrees of freedom of that error (inf where it is known)."""

    value: float
    std_err: float
    freedom: float


@dataclass(frozen=True)
class Difference:
    """First less second, its interval at the level asked for, and the two-sided p-value of its being 0."""

    value: float
    interval: tuple[float, float]
    p_value: float


def mean_of(values: ArrayLike) -> Mean:
    """Mean of independent values [N], N >= 2. Raises InputError for fewer, or values that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise InputError(f"a mean with an error: found shape {list(array.shape)}, expected at least two finite numbers")
    return Mean(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1)


def welch(first: Mean, second: Mean, level: float = 0.95) -> Difference:
    """Difference of two independent means with errors of their own (Welch 1947; freedom by Satterthwaite)."""
    squares = first.std_err**2, second.std_err**2
    value, total = first.value - second.value, sum(squares)
    if total == 0:
        return Difference(value, (value, value), 1.0 if value == 0 else 0.0)
    parts = sum(square**2 / mean.freedom for square, mean in zip(squares, (first, second), strict=True))
    return _difference(value, math.sqrt(total), math.inf if parts == 0 else total**2 / parts, level)


def paired(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Mean of the differences of two lists of N values of the same things (captions, with the same noise) in the same order.

    [N], or [S, N] for S repeats of the same N: repeats are averaged first, since the things are the sample. Raises
    InputError for other shapes, for shapes that differ, or for fewer than two things.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if arrays[0].shape != arrays[1].shape or arrays[0].ndim not in {1, 2}:
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise InputError(f"paired values: found shapes {shapes}, expected twice [N] or twice [repeats, N]")
    differences = arrays[0] - arrays[1]
    mean = mean_of(differences.mean(axis=0) if differences.ndim == 2 else differences)
    if mean.std_err == 0:
        return Difference(mean.value, (mean.value, mean.value), 1.0 if mean.value == 0 else 0.0)
    return _difference(mean.value, mean.std_err, mean.freedom, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false difference among them is at most their level (Holm 1979), in order."""
    count = len(p_values)
    corrected, highest = [0.0] * count, 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _difference(value: float, std_err: float, freedom: float, level: float) -> Difference:
    from scipy.special import ndtr, ndtri, stdtr, stdtrit  # importing the metrics must need numpy only

    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, found {level}", "pass level=0.95")
    tail = (1 + level) / 2
    reach = float(ndtri(tail) if math.isinf(freedom) else stdtrit(freedom, tail)) * std_err
    score = -abs(value) / std_err
    p_value = 2 * float(ndtr(score) if math.isinf(freedom) else stdtr(freedom, score))
    return Difference(value, (value - reach, value + reach), p_value)
