"""Images to rows: everything that the metrics need of an image, taken in one pass while it is in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data.prompts import Prompts
from sbv2bench.data.reference import pixels_sha256, reference_blocks
from sbv2bench.errors import InputError
from sbv2bench.features.base import load_extractor
from sbv2bench.features.cache import Entry
from sbv2bench.features.world import attributes_right
from sbv2bench.metrics.paired_cosine import paired_cosine
from sbv2bench.metrics.precision_recall import radii
from sbv2bench.runs.plan import EvalPlan
from sbv2bench.runs.score import NEIGHBOURS
from sbv2bench.runs.workers import each
from sbv2bench.samplers.base import PromptBlock

Rows = dict[str, NDArray[Any]]


class Measurer:
    """The extractors that a plan needs, with every caption's text embedded once."""

    def __init__(self, plan: EvalPlan, resolution: int) -> None:
        """Loads the networks and embeds the captions. resolution: height and width of the images to come.

        Raises what loading raises, and InputError if an extractor takes images of another size.
        """
        self.prompts: Prompts = plan.prompts
        self.extractors = {row: load_extractor(plan.extractors[row], plan.device) for row in plan.rows}
        for extractor in self.extractors.values():
            if extractor.image_size not in {None, resolution}:
                raise InputError(
                    f"model {plan.model.id}: found images of {resolution} px, expected {extractor.image_size} px, "
                    f"which extractor {extractor.spec.id} of suite {plan.suite.id} takes"
                )
        self.text = {
            row: self.extractors[row].embed_text(plan.prompts.captions) for row in ("clip", "hps") if row in self.extractors
        }
        self.false_text = None
        if "clip" in self.extractors and plan.prompts.false_captions is not None:
            self.false_text = self.extractors["clip"].embed_text(plan.prompts.false_captions)

    def measure_block(self, images_BHWC: NDArray[np.uint8], block: PromptBlock) -> Rows:
        """Rows of a block's n real images; the images [B, H, W, 3] uint8 include its padding.

        features [n, D] float32 · attributes int8 [n, 9]: 1 right, 0 wrong, -1 not named · clip, hps float64 [n]: the scaled
        cosine of each image with its caption · clip_false float64 [n]: that with the caption's hard negative.
        """
        n, first = block.count, block.first - self.prompts.first_index
        rows: Rows = {}
        if "features" in self.extractors:
            rows |= self._features(images_BHWC, slice(first, first + n))
        for name, embeds in self.text.items():
            extractor = self.extractors[name]
            seen = extractor.embed_images(images_BHWC)[:n]
            rows[name] = extractor.spec.scale * paired_cosine(seen, embeds[first : first + n])
            if name == "clip" and self.false_text is not None:
                rows["clip_false"] = extractor.spec.scale * paired_cosine(seen, self.false_text[first : first + n])
        return rows

    def _features(self, images_BHWC: NDArray[np.uint8], captions: slice) -> Rows:
        extractor, named = self.extractors["features"], self.prompts.attributes
        n = captions.stop - captions.start
        if named is None or not hasattr(extractor, "predict"):
            return {"features": extractor(images_BHWC)[:n]}
        features, read = extractor.predict(images_BHWC)
        return {"features": features[:n], "attributes": attributes_right(read[:n], named[captions])}


def measure_reference(plan: EvalPlan, workers: int) -> Entry:
    """The suite's M reference images measured: "features" [M, D] float32 and "radii" [M] float64, in the images' order.

    The manifest has "reference_fingerprint", the SHA-256 of their pixels.
    """
    extractor = load_extractor(plan.extractors["features"], plan.device)
    images = list(enumerate(reference_blocks(plan.suite)))  # the world's pictures are small: 15 MB for 5,000
    features = {number: rows for (number, _), rows in each(lambda item: extractor(item[1]), images, workers)}
    rows: Rows = {"features": np.concatenate([features[number] for number, _ in images])}
    rows["radii"] = radii(rows["features"], NEIGHBOURS)
    digest = pixels_sha256(block for _, block in images)
    return Entry(rows, {"reference_fingerprint": digest, "suite": plan.suite.id, "num_reference": plan.suite.num_reference})
