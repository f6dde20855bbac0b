"""Images to rows: what each extractor that a metric needs gives of an image, taken in one pass while it is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data.preparation import prepare, side_of
from sbv2bench.data.reference import reference_blocks
from sbv2bench.errors import InputError
from sbv2bench.evaluation.choice import without
from sbv2bench.evaluation.foreign_code import blamed, checked_rows, is_foreign
from sbv2bench.evaluation.plan import EvalPlan
from sbv2bench.features.base import Extractor, is_of_images, is_paired, is_scorer, load_extractor, target_of
from sbv2bench.machine.processes import cores, each, turn_on
from sbv2bench.samplers.base import PromptBlock

REFERENCE_BLOCK = 100

Measured = dict[str, NDArray[np.number]]  # extractor id -> its rows
Asked = Callable[[NDArray[np.uint8], Sequence[str]], NDArray[np.number]]  # images [B, H, W, 3] and their captions to rows


class Measurer:
    """The extractors that a plan needs, each loaded when something is first asked of it."""

    def __init__(self, plan: EvalPlan) -> None:
        """Nothing is loaded yet."""
        self.plan = plan
        self.sides = {name: side_of(plan.suite.preparation_for(spec)) for name, spec in plan.extractors.items()}
        self.threads = 1 if plan.device == "cpu" else cores()
        self.turn = turn_on(plan.device)
        self._loaded: dict[str, Extractor] = {}
        self._widths: dict[str, int] = {}  # of each extractor's rows

    def load(self, names: Iterable[str]) -> None:
        """Load some extractors, before threads ask them. Raises what loading raises."""
        for name in names:
            if name not in self._loaded:
                spec = self.plan.extractors[name]
                with blamed(f"extractor {name}", target_of(spec)):
                    self._loaded[name] = load_extractor(spec, self.plan.device)

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError if a loaded extractor takes images of another size than those to come, square or larger ones only."""
        metrics, given = self.plan.metrics, (height, width)
        for name, extractor in self._loaded.items():
            own = self.sides[name]
            height, width = given if own is None else (own, own)
            side, square = getattr(extractor, "image_size", None), getattr(extractor, "square_only", False)
            least = getattr(extractor, "smallest_side", 1)
            expected = f"{side} px" if side else "square ones" if square and height != width else f"at least {least} px"
            wrong = (height, width) != (side, side) if side else square and height != width
            if wrong or min(height, width) < least:
                raise InputError(
                    f"model {self.plan.model.id}: found images of {_pixels(given)}"
                    f"{'' if own is None else f' (prepared to {own} px)'}, expected "
                    f"{expected}, which extractor {name} of suite {self.plan.suite.id} takes",
                    without(metrics, [metric.id for metric in metrics if metric.extractor == name]) or "sbv2bench list suites",
                )

    def measure(self, images_BHWC: NDArray[np.uint8], block: PromptBlock, names: Iterable[str]) -> Measured:
        """What some extractors give of a block's n real images; those [B, H, W, 3] uint8 include its padding, and are prepared as
        the suite says. Rows [n, D] float32 of features and of paired extractors, [n] float32 of scorers, [n, A] int64 of
        attributes."""
        prepared: dict[int | None, NDArray[np.uint8]] = {None: images_BHWC}
        for side in {self.sides[name] for name in names}:
            prepared[side] = images_BHWC if side is None else prepare(images_BHWC, self.threads, side)
        with self.turn:
            return {name: self._asked(name)(prepared[self.sides[name]], block.captions)[: block.count] for name in names}

    def text(self, name: str) -> Measured:
        """Embeddings of the captions, "text" [N, D] float32, by a paired extractor, and of their hard negatives, "false_text"."""
        prompts = self.plan.prompts
        self.load([name])
        network, spec = self._loaded[name], self.plan.extractors[name]
        assert is_paired(network, spec)

        def embedded(captions: Sequence[str]) -> NDArray[np.number]:
            with blamed(f"extractor {name}", target_of(spec)):
                found = network.embed_text(captions)
            return self._checked(name, found, len(captions))

        found: Measured = {"text": embedded(prompts.captions)}
        return found if prompts.false_captions is None else found | {"false_text": embedded(prompts.false_captions)}

    def of_reference(self, names: Sequence[str], ranges: Sequence[range], workers: int) -> Iterator[tuple[range, Measured]]:
        """Some ranges of the suite's reference images, as they are measured by some extractors; each is decoded once."""
        self.load(names)
        archive, sides = self.plan.archive, tuple(dict.fromkeys(self.sides[name] for name in names))

        def measured(rows: range) -> Measured:
            if archive is None:
                images = self.rendered[rows.start : rows.stop]
                with self.turn:
                    return {name: self._asked(name)(images, ()) for name in names}
            read = dict(zip(sides, archive.read_as(rows.start, rows.stop, sides, self.threads), strict=True))
            with self.turn:
                return {name: by_size(self._asked(name), read[self.sides[name]]) for name in names}

        return each(measured, ranges, workers)

    @cached_property
    def rendered(self) -> NDArray[np.uint8]:
        """The world's pictures that are the reference of a suite without photographs: uint8 [M, 32, 32, 3], 15 MB for 5,000."""
        return np.concatenate([*reference_blocks(self.plan.suite, REFERENCE_BLOCK)])

    @property
    def reference_sha256(self) -> str:
        """SHA-256 of the reference: of the world's pixels, or of the files."""
        return self.plan.reference_sha256 or hashlib.sha256(self.rendered.tobytes()).hexdigest()

    def _asked(self, name: str) -> Asked:
        """An extractor as a function of images and their captions, by what it gives; what it gives is checked."""
        network, spec = self._loaded[name], self.plan.extractors[name]
        target = target_of(spec)

        def asked(images: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.number]:
            with blamed(f"extractor {name}", target):
                shown = images.copy() if is_foreign(target) else images  # which it may overwrite: others see them after it
                found: object
                if is_scorer(network, spec):
                    found = network.score(shown, list(captions))
                elif is_paired(network, spec):
                    found = network.embed_images(shown)
                else:
                    assert is_of_images(network, spec)
                    found = network(shown)
            return self._checked(name, found, len(images))

        return asked

    def _checked(self, name: str, found: object, count: int) -> NDArray[np.number]:
        """An extractor's answer for so many images or captions, of as many columns as its others. Raises InputError."""
        rows = checked_rows(self.plan.extractors[name], found, count, self._widths.get(name))
        if rows.ndim == 2:
            self._widths.setdefault(name, rows.shape[1])
        return rows


def _pixels(size: tuple[int, int]) -> str:
    """(height, width) in words."""
    height, width = size
    return f"{height} px" if height == width else f"{height}x{width} px"


def by_size(network: Asked, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.number]:
    """A network's rows of uint8 images [H, W, 3] of any sizes, in their order: those of a size are shown to it together."""
    places: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        places.setdefault(image.shape, []).append(row)
    found: dict[int, NDArray[np.number]] = {}
    for rows in places.values():
        found |= dict(zip(rows, network(np.stack([images[row] for row in rows]), ()), strict=True))
    return np.stack([found[row] for row in range(len(images))])
