"""Images of --save-images: written as they are made, by every process, and moved to their place when the run is done."""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sbv2bench.atomic import whole_folder
from sbv2bench.errors import IntegrityError
from sbv2bench.evaluation.generate import blocks, grid_rows, saved_count
from sbv2bench.evaluation.plan import EvalPlan
from sbv2bench.report.picture import Grid
from sbv2bench.samplers.base import Images, PromptBlock, Sampler, Stopwatch


class SavedImages:
    """The images of a plan's first seed that are to be saved, `00000000.png`, ... by caption number, in a hidden folder beside
    the results until all are there. What an interrupted run has written is not written again."""

    def __init__(self, plan: EvalPlan) -> None:
        """Nothing is written yet."""
        self.plan = plan
        self.folder = plan.options.results / f".{plan.images_key(plan.seeds[0])[:16]}-images"
        self.count = saved_count(plan)
        self.look = grid_rows(plan)
        self.rows = sorted({*range(self.count), *self.look})

    def wants(self, block: PromptBlock) -> bool:
        """Whether a block of the first seed has an image that is to be saved and is not yet."""
        return any(not self._place(row).is_file() for row in self._rows(block))

    def keep(self, block: PromptBlock, images: Images) -> None:
        """Write a block's images [b, H, W, 3] uint8. Raises IntegrityError if the disk is full."""
        if not self.wants(block):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for row in self._rows(block):
                place = self._place(row)
                part = place.with_suffix(f".{os.getpid()}.part")
                Image.fromarray(images[row - block.place]).save(part, format="PNG")
                part.replace(place)
        except OSError as error:
            raise self._unwritable(error) from error

    def finish(self, sampler: Callable[[], Sampler], folder: Path) -> Grid | None:
        """Sample what no run has written, which gives the same images, and put all that were asked for at `folder`, or nothing.

        sampler: loads the model, if an image is missing. Returns the grid of a suite to look at. Raises IntegrityError if the
        disk is full.
        """
        for block in blocks(self.plan, self.plan.prompts, self.plan.seeds[0]):
            if self.wants(block):
                self.keep(block, sampler().generate(block, Stopwatch(self.plan.device)))
        try:
            grid = self._grid() if self.look else None
            if self.count:
                with whole_folder(folder) as partial:
                    for row in range(self.count):
                        place = self._place(row)
                        _linked(place, partial / place.name)  # not moved: a kill here must not cost what was made
            shutil.rmtree(self.folder, ignore_errors=True)
            return grid
        except OSError as error:
            raise self._unwritable(error) from error

    def _grid(self) -> Grid:
        plan = self.plan
        columns = tuple((plan.prompts.first_index + row, plan.seeds[0]) for row in self.look)
        images = np.stack([np.asarray(Image.open(self._place(row))) for row in self.look])
        return Grid(plan.suite.id, (plan.model,), columns, tuple(plan.prompts.captions[row] for row in self.look), (images,))

    def _rows(self, block: PromptBlock) -> list[int]:
        first = bisect_left(self.rows, block.place)
        return self.rows[first : bisect_left(self.rows, block.place + block.count)]

    def _place(self, row: int) -> Path:
        return self.folder / f"{self.plan.prompts.first_index + row:08d}.png"

    def _unwritable(self, error: OSError) -> IntegrityError:
        return IntegrityError(f"{self.folder}: images cannot be written ({error.strerror or error})", "--save-images none")


def _linked(file: Path, place: Path) -> None:
    """A second name of a file, or a copy where the file system has no such thing. Raises OSError."""
    try:
        place.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, place)
