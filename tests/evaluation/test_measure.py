"""One pass over the images: each row belongs to its own caption, padding is cut off, the reference is in its order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sbv2bench.data.reference import reference_blocks
from sbv2bench.errors import InputError
from sbv2bench.evaluation.generate import blocks
from sbv2bench.evaluation.measure import Measurer
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.features.base import load_extractor
from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.registry import Registry


@pytest.fixture
def planned(registry: Registry) -> EvalPlan:
    return plan("student", "tiny", EvalOptions.validated(), registry)


def test_rows_of_a_block(planned: EvalPlan) -> None:
    """Against the extractors asked one image at a time; padding is cut off."""
    measurer = Measurer(planned)
    measurer.load(planned.extractors)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    networks: dict[str, Any] = {name: load_extractor(spec) for name, spec in planned.extractors.items()}
    for block in (blocks(planned, planned.prompts, 0)[1], blocks(planned, planned.prompts, 0)[4]):
        rows = measurer.measure(images, block, tuple(planned.extractors))
        assert {name: (array.dtype.name, array.shape[0]) for name, array in rows.items()} == {
            "tiny-world": ("float32", block.count),
            "tiny-clip": ("float32", block.count),
            "tiny-hps": ("float32", block.count),
            "tiny-attributes": ("int64", block.count),
        }
        for row in range(block.count):
            image = images[row : row + 1]
            for name in ("tiny-clip", "tiny-hps"):
                np.testing.assert_allclose(rows[name][row], networks[name].embed_images(image)[0], atol=1e-5)
            np.testing.assert_allclose(rows["tiny-world"][row], networks["tiny-world"](image)[0], rtol=1e-4, atol=1e-5)
            assert rows["tiny-attributes"][row].tolist() == networks["tiny-attributes"](image)[0].tolist()


def test_text_is_that_of_each_caption_and_of_its_hard_negative(planned: EvalPlan) -> None:
    found = Measurer(planned).text("tiny-clip")
    network = load_extractor(planned.extractors["tiny-clip"])
    false = planned.prompts.false_captions
    assert false is not None
    for row in (0, 7, 25):
        for name, captions in (("text", planned.prompts.captions), ("false_text", false)):
            np.testing.assert_allclose(found[name][row], network.embed_text([captions[row]])[0], atol=1e-5)
    assert np.ptp(found["text"], axis=0).max() > 1e-2  # a row of its neighbour would be seen
    assert np.abs(found["text"] - found["false_text"]).max() > 1e-4


def test_a_scorer_is_shown_each_image_with_its_own_caption(planned: EvalPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lengths:
        """The caption's length plus the first pixel."""

        image_size = None

        def score(self, images: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.float32]:
            return np.array([len(c) + int(i[0, 0, 0]) for i, c in zip(images, captions, strict=True)], np.float32)

    scorer = planned.extractors["tiny-clip"].model_copy(update={"id": "s", "gives": "scorer"})
    monkeypatch.setattr("sbv2bench.evaluation.measure.load_extractor", lambda spec, device: Lengths())
    measurer = Measurer(replace(planned, extractors={"s": scorer}))
    measurer.load(["s"])
    block = blocks(planned, planned.prompts, 0)[4]
    images = np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 8, 8, 3)
    expected = [len(block.captions[row]) + int(images[row, 0, 0, 0]) for row in range(block.count)]
    assert measurer.measure(images, block, ["s"])["s"].tolist() == expected


def test_images_of_another_size_are_refused(planned: EvalPlan) -> None:
    measurer = Measurer(planned)
    measurer.load(planned.extractors)
    measurer.check_size(32, 32)
    with pytest.raises(InputError, match="found images of 64 px, expected 32 px, which extractor tiny-world ") as caught:
        measurer.check_size(64, 64)
    assert caught.value.fix == "--metrics clip,hps,attributes"  # those that another extractor measures


def test_reference_is_measured_in_order(planned: EvalPlan) -> None:
    large = replace(planned, suite=planned.suite.model_copy(update={"num_reference": 250}))
    measurer = Measurer(large)
    ranges = [range(100), range(100, 200), range(200, 250)]
    parts = {rows.start: found["tiny-world"] for rows, found in measurer.of_reference(("tiny-world",), ranges, 3)}
    extractor = load_extractor(planned.extractors["tiny-world"])
    expected = np.concatenate([extractor(images) for images in reference_blocks(large.suite, block_size=8)])
    np.testing.assert_allclose(np.concatenate([parts[start] for start in (0, 100, 200)]), expected, rtol=1e-4, atol=1e-5)
    pixels = b"".join(images.tobytes() for images in reference_blocks(large.suite))
    assert measurer.reference_sha256 == hashlib.sha256(pixels).hexdigest()


def test_an_extractor_of_patches_refuses_images_that_have_none(planned: EvalPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated ones: of them a patch would be the whole, and the metric another under its name."""
    monkeypatch.setattr(OpenClipScorer, "smallest_side", 299, raising=False)
    measurer = Measurer(planned)
    measurer.load(["tiny-clip"])
    measurer.check_size(299, 512)
    with pytest.raises(InputError, match="found images of 512x298 px, expected at least 299 px, which extractor tiny-clip"):
        measurer.check_size(512, 298)
