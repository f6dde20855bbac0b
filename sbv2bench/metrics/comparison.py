"""Is one number really below another: differences of means with intervals and p-values, paired or not, one or many.

Textbook statistics, here in one place because every table of differences must use the same. Values without any spread tell
nothing about an error (the same thing counted twice has none), so they give no interval, and never certainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError

_ROUNDING = 1e-6  # values that differ by less, as a share of them, are float32's rounding of one


@dataclass(frozen=True)
class Mean:
    """A mean, its standard error and the degrees of freedom of that error (inf where it is known)."""

    value: float
    std_err: float
    freedom: float


@dataclass(frozen=True)
class Difference:
    """First less second, its interval at the level asked for, the two-sided p-value of its being 0, and degrees of freedom."""

    value: float
    interval: tuple[float, float]
    p_value: float
    freedom: float = math.inf


def mean_of(values: ArrayLike) -> Mean:
    """Mean of independent values [N], N >= 2. Raises InputError for fewer, or values that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise InputError(f"a mean with an error: found shape {list(array.shape)}, expected at least two finite numbers")
    return Mean(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1)


def spread_of(values: ArrayLike) -> Mean | None:
    """`mean_of` values [N] from which an error can be told; None for fewer than two, or for values that are all the same."""
    array = np.asarray(values, dtype=np.float64)
    return None if array.ndim == 1 and (len(array) < 2 or is_one_value(array)) else mean_of(array)


def is_one_value(values: ArrayLike, magnitude: float | None = None) -> bool:
    """Whether values [N], N >= 1, are one but for float32's rounding. magnitude: of what they were computed from, else theirs."""
    array = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(array) <= _ROUNDING * (np.abs(array).max() if magnitude is None else magnitude))


def welch(first: Mean, second: Mean, level: float = 0.95) -> Difference | None:
    """Difference of two independent means with errors of their own (Welch 1947; freedom by Satterthwaite).

    None where either error is 0: it was not measured. Raises InputError unless 0 < level < 1.
    """
    squares = first.std_err**2, second.std_err**2
    value, total = first.value - second.value, sum(squares)
    if min(squares) <= 0:
        return None
    parts = sum(square**2 / mean.freedom for square, mean in zip(squares, (first, second), strict=True))
    return _difference(value, math.sqrt(total), math.inf if parts == 0 else total**2 / parts, level)


def paired(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference | None:
    """Mean of the differences of two lists of N values of the same things (captions, with the same noise) in the same order.

    [N], or [S, N] for S repeats of the same N: repeats are averaged first, since the things are the sample. None where all
    things differ by the same amount, and that is not 0. Raises InputError for other shapes, for shapes that differ, or for
    fewer than two things.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if arrays[0].shape != arrays[1].shape or arrays[0].ndim not in {1, 2}:
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise InputError(f"paired values: found shapes {shapes}, expected twice [N] or twice [repeats, N]")
    differences = arrays[0] - arrays[1]
    differences = differences.mean(axis=0) if differences.ndim == 2 else differences
    mean = mean_of(differences)
    if mean.std_err == 0 and mean.value == 0:
        return Difference(0.0, (0.0, 0.0), 1.0)
    if is_one_value(differences, float(np.abs(np.stack(arrays)).max())):
        return None
    return _difference(mean.value, mean.std_err, mean.freedom, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false difference among them is at most their level (Holm 1979), in order."""
    count = len(p_values)
    corrected, highest = [0.0] * count, 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (count - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def leaders(
    values: Sequence[float | None], direction: str, p_value: Callable[[int, int], float | None], level: float = 0.95
) -> frozenset[int]:
    """Places of the best value and of all that cannot be told from it, which every table sets off alike.

    values: None takes no part; of fewer than two nothing leads. direction: "lower" or "higher" is better. p_value: of the
    difference between two places, None where no error is known: then only an equal value shares the lead. The p-values are
    corrected by Holm for how many are compared with the best.
    """
    own = {place: value for place, value in enumerate(values) if value is not None}
    if len(own) < 2:
        return frozenset()
    best = (min if direction == "lower" else max)(own, key=lambda place: own[place])
    tested = {place: p for place in own if place != best and (p := p_value(place, best)) is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return frozenset(place for place in own if own[place] == own[best] or corrected.get(place, 0.0) >= 1 - level)


def _difference(value: float, std_err: float, freedom: float, level: float) -> Difference:
    from scipy.special import ndtr, ndtri, stdtr, stdtrit  # importing the metrics must need numpy only

    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, found {level}", "pass level=0.95")
    tail = (1 + level) / 2
    reach = float(ndtri(tail) if math.isinf(freedom) else stdtrit(freedom, tail)) * std_err
    score = -abs(value) / std_err
    p_value = 2 * float(ndtr(score) if math.isinf(freedom) else stdtr(freedom, score))
    return Difference(value, (value - reach, value + reach), p_value, freedom)
