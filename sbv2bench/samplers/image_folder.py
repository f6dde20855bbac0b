"""A model whose images exist already: the i-th file of a folder is the image of the i-th prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch

from sbv2bench.data.assets import resolve_location
from sbv2bench.data.images import ImageFolder
from sbv2bench.errors import InputError
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, refuse_unused
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from sbv2bench.registry import Registry


class ImageFolderSampler:
    """Reads in place of sampling; seeds, steps and device change nothing."""

    network_calls = 0

    def __init__(self, spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None) -> None:
        """Reads every header. Raises what `ImageFolder` raises."""
        refuse_unused(spec, "base", "holds", "vae", "parts", "adapters", "merge")
        self.spec = spec
        self.images = ImageFolder(resolve_location(spec.location, spec.revision))
        self.width, self.resolution = self.images.size

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, resolution, width, 3]: files as the block's place in the list says, the last repeated.

        Raises IntegrityError where the folder has fewer images than the block needs, or one is broken.
        """
        size = len(block.captions)
        start = block.place
        stop = start + block.count
        if stop > len(self.images):
            self.images.require_count(stop)
        with stopwatch.stage("decode"):
            images = self.images.read(start, stop)
        return np.concatenate([images, np.repeat(images[-1:], size - block.count, axis=0)])

    def pipeline(self) -> NoReturn:
        """Raises InputError: a folder of images generates nothing."""
        raise InputError(f"{self.spec.id}: a folder of images has no pipeline")
