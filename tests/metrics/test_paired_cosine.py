"""The arithmetic of CLIP score and HPS."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics.paired_cosine import paired_cosine

IMAGES = np.array([[3.0, 4, 0], [3, 4, 0]])
TEXTS = np.array([[0.0, 5, 12], [1, 0, 0]])


def test_hand_vectors() -> None:
    cosines = paired_cosine(IMAGES, TEXTS)
    assert cosines.dtype == np.float64
    np.testing.assert_allclose(cosines, [20 / 65, 0.6], rtol=1e-15)
    assert cosines.mean() == pytest.approx(0.453846153846154, rel=1e-14)


@pytest.mark.parametrize("scale", [1e-3, 17.0, 1e200, 1e-300])
def test_length_does_not_matter(scale: float) -> None:
    np.testing.assert_allclose(paired_cosine(scale * IMAGES, TEXTS), [20 / 65, 0.6], rtol=1e-14)
    np.testing.assert_allclose(paired_cosine(IMAGES, scale * TEXTS), [20 / 65, 0.6], rtol=1e-14)


def test_pairs_by_row_and_keeps_the_sign() -> None:
    np.testing.assert_allclose(paired_cosine(IMAGES, TEXTS[::-1]), [0.6, 20 / 65], rtol=1e-15)
    np.testing.assert_allclose(paired_cosine(IMAGES, -TEXTS), [-20 / 65, -0.6], rtol=1e-15)


def test_never_beyond_one() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 7))
    assert paired_cosine(rows, rows).max() <= 1.0
    assert paired_cosine(rows, -rows).min() >= -1.0


@pytest.mark.parametrize(
    ("images", "texts", "words"),
    [
        (IMAGES, TEXTS[:1], "row i of both"),
        (IMAGES, TEXTS[:, :2], "row i of both"),
        (IMAGES * 0, TEXTS, "image_embeds row 0"),
        (IMAGES, np.array([[1.0, 0, 0], [0, 0, 0]]), "text_embeds row 1"),
        (IMAGES, np.full((2, 3), np.inf), "finite"),
        (IMAGES[0], TEXTS[0], r"\[N, D\]"),
    ],
)
def test_refuses(images: np.ndarray, texts: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        paired_cosine(images, texts)
