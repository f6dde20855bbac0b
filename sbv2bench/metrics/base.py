"""What every metric asks of its arrays: features [N, D], real, finite, enough rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbv2bench.errors import InputError

Float64 = NDArray[np.float64]
Features = NDArray[np.floating]


def as_features(features: ArrayLike, name: str, minimum: int = 1) -> Features:
    """The array itself if it is float16, float32 or float64, else as float64.

    features: [N, D], real numbers; name: "generated" or "reference", for the message.
    Raises InputError unless it is [N, D] with D >= 1, N >= minimum, and every value is finite.
    """
    array = np.asarray(features)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} features must be real numbers, found dtype {array.dtype}", fix="pass an array of float32")
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} features must have shape [N, D], found {list(array.shape)}", fix="pass one row an image")
    if len(array) < minimum:
        raise InputError(f"{name} features: {len(array)} rows found, at least {minimum} expected", fix="use more images")
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    # NaN passes through min and max, so two reductions see every bad value without an [N, D] array of booleans
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        row = next(index for index, values in enumerate(array) if not np.isfinite(values).all())
        raise InputError(f"{name} features must be finite, found NaN or infinity in row {row}", fix="look at that image")
    return array


def as_feature_pair(generated: ArrayLike, reference: ArrayLike, minimum: int = 1) -> tuple[Features, Features]:
    """Both sets through as_features; raises InputError also if their D differ."""
    checked = as_features(generated, "generated", minimum), as_features(reference, "reference", minimum)
    widths = checked[0].shape[1], checked[1].shape[1]
    if widths[0] != widths[1]:
        raise InputError(
            f"generated features have D = {widths[0]}, reference features D = {widths[1]}; they must be equal",
            fix="take both from the same extractor",
        )
    return checked


def check_neighbours(features: Features, name: str, k: int) -> None:
    """Raises InputError unless every row has a k-th nearest other one. name: of the set, for the message."""
    if k < 1:
        raise InputError(f"k must be at least 1, found {k}")
    if len(features) <= k:
        raise InputError(f"{name} features: {len(features)} rows found, more than k = {k} expected", fix="use more images")
