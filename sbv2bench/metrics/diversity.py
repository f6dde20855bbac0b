"""How different the images of one caption are, in the eyes of an extractor: mean pairwise distance and Vendi score.

Both say nothing of quality: noise is diverse. Both are of K images of each caption, and the Vendi score's expectation grows
with K, so numbers of another K are other numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Float64, as_features
from sbv2bench.metrics.paired_cosine import unit_rows


def pairwise_distances(features: ArrayLike, images_per_prompt: int) -> Float64:
    """For each caption the mean cosine distance, 1 - cosine, over the pairs of its images: float64 [N], in [0, 2].

    features: [N * images_per_prompt, D], images of a caption beside each other. Raises InputError for another number of rows,
    fewer than two images of a caption, values that are not finite, or a row of zeros.
    """
    rows = _by_caption(features, images_per_prompt)
    of_sums = np.square(rows.sum(axis=1)).sum(axis=1)  # K + the cosines of all ordered pairs
    mean_cosine = (of_sums - images_per_prompt) / (images_per_prompt * (images_per_prompt - 1))
    found: Float64 = np.clip(1.0 - mean_cosine, 0.0, 2.0)
    return found


def mean_pairwise_distance(features: ArrayLike, images_per_prompt: int) -> float:
    """Cosine distance, mean over the pairs within a caption, then over captions. Arguments and errors of pairwise_distances."""
    return float(pairwise_distances(features, images_per_prompt).mean())


def vendi_score(features: ArrayLike) -> float:
    """Effective number of different rows among features [N, D]: 1 where all have one direction, N where all are orthogonal.

    The exponential of the entropy of the eigenvalues of the cosine kernel over N (Friedman and Dieng 2023, definition 3.1).
    Raises InputError for values that are not finite or a row of zeros.
    """
    return float(_vendi(unit_rows(as_features(features, "generated"), "generated")[None])[0])


def vendi_scores(features: ArrayLike, images_per_prompt: int) -> Float64:
    """The Vendi score of each caption's images: float64 [N], from 1 to images_per_prompt. Arguments as pairwise_distances'."""
    return _vendi(_by_caption(features, images_per_prompt))


def _vendi(rows: Float64) -> Float64:
    """Vendi scores [N] of unit rows [N, K, D], by the smaller of both Gram matrices: their eigenvalues but for zeros agree."""
    count, width = rows.shape[1:]
    gram = rows @ rows.transpose(0, 2, 1) if count <= width else rows.transpose(0, 2, 1) @ rows
    values = np.clip(np.linalg.eigvalsh(gram / count), 0.0, None)
    logs = np.log(values, out=np.zeros_like(values), where=values > 0)
    found: Float64 = np.exp(-(values * logs).sum(axis=1))
    return found


def _by_caption(features: ArrayLike, images_per_prompt: int) -> Float64:
    """Unit rows [N, K, D]."""
    rows = as_features(features, "generated")
    if images_per_prompt < 2 or len(rows) % images_per_prompt:
        raise InputError(
            f"found {len(rows)} images, {images_per_prompt} of each caption; expected at least 2 of each and no other",
            "--images-per-prompt 4",
        )
    return unit_rows(rows, "generated").reshape(-1, images_per_prompt, rows.shape[1])
