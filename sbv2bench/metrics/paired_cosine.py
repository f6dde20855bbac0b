"""Cosine of each image's embedding with its own caption's: the arithmetic of CLIP score and HPS."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sbv2bench.errors import InputError
from sbv2bench.metrics.base import Features, Float64, as_features


def unit_rows(embeds: Features, name: str) -> Float64:
    """float64 [N, D]: rows [N, D] divided by their lengths. name: of the set, for InputError where a row is all zeros."""
    rows = embeds.astype(np.float64)
    rows /= np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)  # no square may over- or underflow
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    zero = np.flatnonzero(norms == 0)
    if len(zero):
        raise InputError(f"{name} row {zero[0]} is all zeros and has no direction", fix="look at that image or caption")
    rows /= norms
    return rows


def paired_cosine(image_embeds: ArrayLike, text_embeds: ArrayLike) -> Float64:
    """Cosine of row i of image_embeds [N, D] with row i of text_embeds [N, D]: [N] float64 in [-1, 1].

    Neither needs unit length. Unscaled and not clipped at zero: multiply by 100 for HPS.
    Raises InputError if the shapes differ, a value is not finite, or a row is all zeros.
    """
    images, texts = as_features(image_embeds, "image_embeds"), as_features(text_embeds, "text_embeds")
    if images.shape != texts.shape:
        raise InputError(
            f"image_embeds has shape {list(images.shape)}, text_embeds {list(texts.shape)}; row i of both belongs to image i",
            fix="pass one caption embedding an image, from the same model",
        )
    cosines: Float64 = np.einsum("nd,nd->n", unit_rows(images, "image_embeds"), unit_rows(texts, "text_embeds"))
    return np.clip(cosines, -1.0, 1.0)
