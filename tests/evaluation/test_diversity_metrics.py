"""Metrics of several images of a caption: what ranks where, and the errors of their ratios."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.evaluation.diversity_metrics import clip_of_all, diversity, diversity_ratio, ratio_of_means
from sbv2bench.evaluation.rows import Rows
from sbv2bench.specs import ExtractorSpec

CAPTIONS, IMAGES, WIDTH = 200, 4, 32
CLIP = ExtractorSpec(id="clip", kind="open_clip")


def students() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Captions' directions, and images [N * K, D] of four students: the teacher, one less diverse, collapsed, and noise."""
    rng = np.random.default_rng(11)
    text = rng.standard_normal((CAPTIONS, 1, WIDTH))
    noise = rng.standard_normal((CAPTIONS, IMAGES, WIDTH))
    found = {"teacher": text + 0.6 * noise, "narrow": text + 0.3 * noise, "collapsed": text + 0 * noise, "noise": 1 * noise}
    return text[:, 0], {name: rows.reshape(-1, WIDTH).astype(np.float32) for name, rows in found.items()}


def test_a_collapsed_student_is_last_and_noise_is_diverse_and_bad() -> None:
    text, images = students()
    distance, vendi, clip = {}, {}, {}
    for name, generated in images.items():
        rows = Rows(generated=generated, text=text.astype(np.float32), images_per_prompt=IMAGES, extractor=CLIP)
        found = diversity(rows)
        distance[name], vendi[name] = found["pairwise_distance"].value, found["vendi"].value
        clip[name] = clip_of_all(rows)["clip_score_all"].value
    for diverse in (distance, vendi):
        assert sorted(diverse, key=diverse.__getitem__) == ["collapsed", "narrow", "teacher", "noise"]
    assert distance["collapsed"] == pytest.approx(0, abs=1e-6) and vendi["collapsed"] == pytest.approx(1, abs=1e-4)
    assert min(clip, key=clip.__getitem__) == "noise"


def test_the_number_of_images_is_in_the_label() -> None:
    found = diversity(Rows(generated=students()[1]["teacher"], images_per_prompt=IMAGES))
    assert found["vendi"].label == "Vendi K=4" and found["pairwise_distance"].label == "pairwise distance K=4"
    assert np.shape(found["vendi"].each) == (CAPTIONS,)


def test_a_ratio_to_the_teacher_and_its_error() -> None:
    images = students()[1]
    found = diversity_ratio(Rows(generated=images["narrow"], reference=images["teacher"], images_per_prompt=IMAGES))
    own = diversity(Rows(generated=images["narrow"], images_per_prompt=IMAGES))["pairwise_distance"].value
    theirs = diversity(Rows(generated=images["teacher"], images_per_prompt=IMAGES))["pairwise_distance"].value
    assert found["pairwise_distance_ratio"].value == pytest.approx(own / theirs, rel=1e-12)
    assert found["pairwise_distance_ratio"].details == {"student": pytest.approx(own), "teacher": pytest.approx(theirs)}
    itself = diversity_ratio(Rows(generated=images["teacher"], reference=images["teacher"], images_per_prompt=IMAGES))
    assert itself["vendi_ratio"].value == 1 and itself["vendi_ratio"].std_err == pytest.approx(0, abs=1e-12)


def test_the_error_of_a_ratio_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(500):
        common = rng.standard_normal(80)
        found.append(ratio_of_means(2 + 0.5 * common, 3 + common + 0.3 * rng.standard_normal(80)))
    values, errors = np.array(found, dtype=float).T
    assert values.mean() == pytest.approx(2 / 3, rel=0.01)
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.1)
