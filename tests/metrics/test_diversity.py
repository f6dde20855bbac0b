"""Pairwise distance and Vendi score: closed forms, and both definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.metrics import mean_pairwise_distance, vendi_score
from sbv2bench.metrics.diversity import pairwise_distances, vendi_scores


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_images_of_one_direction_and_orthogonal_ones() -> None:
    alike, orthogonal = np.tile([2.0, 0.0, 0.0, 0.0], (4, 1)), 3 * np.eye(4)
    assert pairwise_distances(np.concatenate([alike, orthogonal, np.eye(4)[[0, 0, 1, 1]]]), 4) == pytest.approx([0, 1, 4 / 6])
    assert mean_pairwise_distance(np.concatenate([alike, orthogonal]), 4) == pytest.approx(0.5)
    assert vendi_score(alike) == pytest.approx(1, abs=1e-12)
    assert vendi_score(orthogonal) == pytest.approx(4, rel=1e-12)
    assert vendi_scores(np.concatenate([alike, orthogonal, np.eye(4)[[0, 0, 1, 1]]]), 4) == pytest.approx([1, 4, 2])
    assert mean_pairwise_distance(np.array([[1.0, 0.0], [-1.0, 0.0]]), 2) == pytest.approx(2)


@pytest.mark.parametrize("width", [3, 16])  # narrower and wider than the number of rows
def test_they_are_what_their_definitions_say(width: int) -> None:
    rows = np.random.default_rng(3).standard_normal((5, 7, width)) + 0.5
    flat = rows.reshape(-1, width).astype(np.float32)
    distances = [np.mean([1 - a @ b for a, b in itertools.combinations(unit(own), 2)]) for own in rows]
    assert pairwise_distances(flat, 7) == pytest.approx(distances, rel=1e-5)
    assert mean_pairwise_distance(flat, 7) == pytest.approx(np.mean(distances), rel=1e-5)
    for own, found in zip(rows, vendi_scores(flat, 7), strict=True):
        values = np.linalg.eigvalsh(unit(own) @ unit(own).T / 7)
        values = values[values > 1e-12]
        assert found == pytest.approx(np.exp(-np.sum(values * np.log(values))), rel=1e-5)
        assert vendi_score(own) == pytest.approx(found, rel=1e-5)


def test_wrong_counts_are_refused() -> None:
    for images_per_prompt in (1, 3):
        with pytest.raises(InputError, match=f"found 4 images, {images_per_prompt} of each caption"):
            pairwise_distances(np.eye(4), images_per_prompt)
