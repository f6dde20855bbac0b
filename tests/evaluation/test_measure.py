"""One pass over the images: each row belongs to its own caption, padding is cut off, the reference is in its order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbv2bench.data.reference import reference_blocks, reference_fingerprint
from sbv2bench.errors import InputError
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.measure import Measurer, measure_reference
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.features.base import load_extractor
from sbv2bench.metrics.precision_recall import radii
from sbv2bench.mini import world
from sbv2bench.registry import Registry


@pytest.fixture
def planned(registry: Registry) -> EvalPlan:
    return plan("student", "tiny", EvalOptions.validated(), registry)


def test_rows_of_a_block(planned: EvalPlan) -> None:
    """Against the extractors asked one caption and one image at a time."""
    measurer = Measurer(planned, 32)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    extractors = {role: load_extractor(spec) for role, spec in planned.extractors.items()}
    for block in (blocks(planned, planned.prompts, 0)[1], blocks(planned, planned.prompts, 0)[4]):
        rows = measurer.measure_block(images, block)
        assert {name: (array.dtype.name, array.shape) for name, array in rows.items()} == {
            "features": ("float32", (block.count, 128)),
            "attributes": ("int8", (block.count, 9)),
            "clip": ("float64", (block.count,)),
            "clip_false": ("float64", (block.count,)),
            "hps": ("float64", (block.count,)),
        }
        for row in range(block.count):
            caption = planned.prompts.captions[block.first + row]
            assert caption == block.captions[row]
            false = planned.prompts.false_captions[block.first + row]  # type: ignore[index]
            assert false != caption
            for name, role, sentence, scale in (
                ("clip", "clip", caption, 1.0),
                ("clip_false", "clip", false, 1.0),
                ("hps", "hps", caption, 100.0),
            ):
                image, text = extractors[role].embed_images(images[row : row + 1])[0], extractors[role].embed_text([sentence])[0]
                assert rows[name][row] == pytest.approx(scale * float(image @ text), abs=1e-5 * scale)
            features, read = extractors["features"].predict(images[row : row + 1])
            np.testing.assert_allclose(rows["features"][row], features[0], rtol=1e-4, atol=1e-5)
            named = planned.prompts.attributes[block.first + row]  # type: ignore[index]
            assert rows["attributes"][row].tolist() == [
                -1 if n == world.FREE else int(n == r) for n, r in zip(named, read[0], strict=True)
            ]
    # captions differ in what they score, so a row that was paired with its neighbour would be seen
    assert np.ptp(measurer.text["clip"], axis=0).max() > 1e-2
    assert np.abs(rows["clip"] - rows["clip_false"]).max() > 1e-4


def test_images_of_another_size_are_refused_before_any_is_made(planned: EvalPlan) -> None:
    with pytest.raises(InputError, match="found images of 64 px, expected 32 px"):
        Measurer(planned, 64)


def test_reference_is_measured_in_order(planned: EvalPlan) -> None:
    entry = measure_reference(planned, ("features",), workers=2)["features"]
    extractor = load_extractor(planned.extractors["features"])
    expected = np.concatenate([extractor(images) for images in reference_blocks(planned.suite, block_size=8)])
    np.testing.assert_allclose(entry.arrays["features"], expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(entry.arrays["radii"], radii(entry.arrays["features"], 3))
    assert entry.manifest["reference_fingerprint"] == reference_fingerprint(planned.suite)


def test_reference_of_several_blocks_keeps_their_order(planned: EvalPlan) -> None:
    large = planned.suite.model_copy(update={"num_reference": 250})
    entry = measure_reference(replace(planned, suite=large), ("features",), workers=3)["features"]
    found = entry.arrays["features"]
    extractor = load_extractor(planned.extractors["features"])
    np.testing.assert_allclose(found, np.concatenate([extractor(x) for x in reference_blocks(large)]), rtol=1e-4, atol=1e-5)
