"""Images to rows: everything that the metrics need of an image, taken in one pass while it is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data.preparation import prepare, side_of
from sbv2bench.data.prompts import Prompts
from sbv2bench.data.reference import reference_blocks
from sbv2bench.errors import InputError
from sbv2bench.evaluation.options import Progress
from sbv2bench.evaluation.plan import COMPARED, EvalPlan, radii_row
from sbv2bench.evaluation.score import NEIGHBOURS
from sbv2bench.features.base import load_extractor
from sbv2bench.features.cache import Entry
from sbv2bench.features.world import attributes_right
from sbv2bench.machine.processes import cores, each
from sbv2bench.metrics.paired_cosine import paired_cosine
from sbv2bench.metrics.precision_recall import radii
from sbv2bench.samplers.base import PromptBlock

REFERENCE_BLOCK = 100
_TEXT_ROWS = ("clip", "hps", "hps_v21")

Rows = dict[str, NDArray[Any]]
Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]  # [B, H, W, 3], or [H, W, 3] each


class Measurer:
    """The extractors that a plan needs, with every caption's text embedded once."""

    def __init__(self, plan: EvalPlan, size: int | tuple[int, int]) -> None:
        """Loads the networks and embeds the captions. size: (height, width) of the images to come, or the side of square ones.

        Raises what loading raises, and InputError if an extractor takes images of another size or square ones only.
        """
        self.prompts: Prompts = plan.prompts
        self.side = None if plan.suite.preparation is None else side_of(plan.suite.preparation)
        self.threads = 1 if plan.device == "cpu" else cores()
        self.extractors = {row: load_extractor(plan.extractors[row], plan.device) for row in plan.rows}
        given = (size, size) if isinstance(size, int) else size
        height, width = given if self.side is None else (self.side, self.side)
        for extractor in self.extractors.values():
            side, square = extractor.image_size, getattr(extractor, "square_only", False)
            if (side is not None and (height, width) != (side, side)) or (square and height != width):
                raise InputError(
                    f"model {plan.model.id}: found images of {_pixels(given)}"
                    f"{'' if self.side is None else f' (prepared to {self.side} px)'}, expected "
                    f"{f'{side} px' if side else 'square ones'}, "
                    f"which extractor {extractor.spec.id} of suite {plan.suite.id} takes",
                    "sbv2bench list suites",
                )
        self.text = {row: self.extractors[row].embed_text(plan.prompts.captions) for row in _TEXT_ROWS if row in self.extractors}
        self.false_text = None
        if "clip" in self.extractors and plan.prompts.false_captions is not None:
            self.false_text = self.extractors["clip"].embed_text(plan.prompts.false_captions)

    def measure_block(self, images_BHWC: NDArray[np.uint8], block: PromptBlock) -> Rows:
        """Rows of a block's n real images; the images [B, H, W, 3] uint8 include its padding, and are prepared as the suite says.

        features, pr, pr_paper [n, D] float32 · attributes int8 [n, 9]: 1 right, 0 wrong, -1 not named · clip, hps, hps_v21
        float64 [n]: the scaled cosine of each image with its caption · clip_false float64 [n]: that with the caption's hard
        negative.
        """
        if self.side is not None:
            images_BHWC = prepare(images_BHWC, self.threads, self.side)
        n, first = block.count, block.first - self.prompts.first_index
        rows: Rows = {}
        if "features" in self.extractors:
            rows |= self._features(images_BHWC, slice(first, first + n))
        for name in COMPARED[1:]:
            if name in self.extractors:
                rows[name] = self.extractors[name](images_BHWC)[:n]
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


def _pixels(size: tuple[int, int]) -> str:
    """(height, width) in words."""
    height, width = size
    return f"{height} px" if height == width else f"{height}x{width} px"


def measure_reference(
    plan: EvalPlan, rows: tuple[str, ...], workers: int, progress: Progress | None = None, size: int = REFERENCE_BLOCK
) -> dict[str, Entry]:
    """The suite's M reference images measured in one pass: for each of the rows an entry of "features" [M, D] float32, in
    the images' order, and "radii" [M] float64 where precision and recall look at it.

    Images are decoded once, size of them at a time, and none is kept. The manifest has "reference_fingerprint": the SHA-256 of
    the world's pixels, or of the files.
    """
    networks = {row: load_extractor(plan.extractors[row], plan.device) for row in rows}
    archive, count = plan.archive, plan.suite.num_reference
    digest, drawn = hashlib.sha256(), reference_blocks(plan.suite, size)
    side = None if plan.suite.preparation is None else side_of(plan.suite.preparation)
    blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    threads = 1 if plan.device == "cpu" else cores()  # on a CPU, several blocks are at work at once

    def measured(block: range) -> dict[str, NDArray[Any]]:
        if archive is None:
            images: Images = pictures[block.start]
        elif side is None:
            images = archive.read(block.start, block.stop, threads)
        else:
            images = archive.read_prepared(block.start, block.stop, threads, side)
        return {row: by_size(network, images) for row, network in networks.items()}

    pictures: dict[int, NDArray[np.uint8]] = {}
    if archive is None:  # the world's pictures are small: 15 MB for 5,000
        for block, images in zip(blocks, drawn, strict=True):
            digest.update(images.tobytes())
            pictures[block.start] = images
    found: dict[int, dict[str, NDArray[Any]]] = {}
    for block, features in each(measured, blocks, workers):
        found[block.start] = features
        if progress is not None and archive is not None:  # the world's take no time
            progress("reference", min(len(found) * size, count), count)
    manifest = {"reference_fingerprint": plan.reference_sha256 or digest.hexdigest(), "num_reference": count}
    entries = {}
    for row in rows:
        arrays: Rows = {"features": np.concatenate([found[block.start].pop(row) for block in blocks])}
        if row == radii_row(plan.suite) and count > NEIGHBOURS:  # with fewer, no metric that was chosen looks at them
            arrays["radii"] = radii(arrays["features"], NEIGHBOURS)
        entries[row] = Entry(arrays, {**manifest, "suite": plan.suite.id})
    return entries


def by_size(network: Callable[[NDArray[np.uint8]], NDArray[Any]], images: Images) -> NDArray[Any]:
    """A network's rows of uint8 images [H, W, 3] of any sizes, in their order: those of a size are shown to it together."""
    if isinstance(images, np.ndarray):
        return network(images)
    places: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        places.setdefault(image.shape, []).append(row)
    found: dict[int, NDArray[Any]] = {}
    for rows in places.values():
        found |= dict(zip(rows, network(np.stack([images[row] for row in rows])), strict=True))
    return np.stack([found[row] for row in range(len(images))])
