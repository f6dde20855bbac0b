"""What an extractor is, and how the network that a spec declares is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sbv2bench.errors import InputError
from sbv2bench.specs import ExtractorSpec

# Built-in kinds of ExtractorSpec.kind; a spec may also name its own class as "module:Class".
KINDS = {
    "world_network": "sbv2bench.features.world:WorldExtractor",
    "world_attributes": "sbv2bench.features.world:WorldAttributes",
    "open_clip": "sbv2bench.features.clip:OpenClipScorer",
    "inception": "sbv2bench.features.inception:InceptionExtractor",
}


class Extractor(Protocol):
    """A network that measures images. What it is asked by, its spec's `gives` says (ExtractorSpec); this is the usual way."""

    spec: ExtractorSpec
    image_size: int | None  # images must be this size; None takes any

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features [B, D] float32 of uint8 RGB images [B, H, W, 3]."""
        ...


def extractor_class(spec: ExtractorSpec) -> Callable[[ExtractorSpec, str], Any]:
    """The class of a spec's kind, which may say `image_size` and `dimension`, the number of its features, before it is made.

    Raises InputError on an unknown kind.
    """
    target = KINDS.get(spec.kind, spec.kind)
    module, _, name = target.partition(":")
    if not name:
        raise InputError(f"extractor {spec.id}: found kind {spec.kind!r}, expected {', '.join(KINDS)} or module:Class")
    try:
        found: Callable[[ExtractorSpec, str], Any] = getattr(import_module(module), name)
        return found
    except (ImportError, AttributeError) as error:
        raise InputError(f"extractor {spec.id}: {target} cannot be imported ({error})") from error


def load_extractor(spec: ExtractorSpec, device: str = "cpu") -> Any:
    """The network of a spec, float32, in evaluation mode, on a device. Raises what `extractor_class` raises."""
    return extractor_class(spec)(spec, device)


def cut_by_extractor(spec: ExtractorSpec, captions: Sequence[str]) -> tuple[int, int] | None:
    """(captions that are longer, tokens that are read) of an extractor that embeds text, whose network is not loaded.

    Asks the function `cut_captions` in the module of its kind; None where that has none, as of a plugin. Raises what it raises.
    """
    module, _, name = KINDS.get(spec.kind, spec.kind).partition(":")
    count = getattr(import_module(module), "cut_captions", None) if name else None
    found: tuple[int, int] | None = None if count is None else count(spec, captions)
    return found


def to_tensor(images_BHWC: NDArray[np.uint8], device: str) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 255] on a device. Raises ValueError on another shape or dtype."""
    if images_BHWC.dtype != np.uint8 or images_BHWC.ndim != 4 or images_BHWC.shape[3] != 3:
        raise ValueError(f"images: found {images_BHWC.dtype} {images_BHWC.shape}, expected uint8 [B, H, W, 3]")
    channels_first = np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).to(device=device, dtype=torch.float32)
