"""What an extractor is, and how the network that a spec declares is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from sbv2bench.errors import InputError
from sbv2bench.specs import ExtractorSpec

_TEXT_BATCH = 256  # fixed, so that a text's embedding does not depend on who asks for it
# Built-in kinds of ExtractorSpec.kind; a spec may also name its own class as "module:Class".
KINDS = {
    "world_network": "sbv2bench.features.world:WorldExtractor",
    "world_attributes": "sbv2bench.features.world:WorldAttributes",
    "open_clip": "sbv2bench.features.clip:OpenClipScorer",
    "inception": "sbv2bench.features.inception:InceptionExtractor",
    "clip": "sbv2bench.features.transformers_clip:ClipEmbeddings",
    "clip_logits": "sbv2bench.features.transformers_clip:ClipLogits",
    "dinov2": "sbv2bench.features.dinov2:Dinov2Features",
    "image_reward": "sbv2bench.features.image_reward:ImageReward",
}


class ImageExtractor(Protocol):
    """A network of a spec that gives features or attributes."""

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32 | np.int64]:
        """Features [B, D] float32, or attributes [B, A] int64, of uint8 RGB images [B, H, W, 3]."""


class PairedExtractor(Protocol):
    """A network of a spec that gives pairs: images and captions in one space."""

    def embed_images(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit embeddings [B, D] float32 of uint8 RGB images [B, H, W, 3]."""

    def embed_text(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings [N, D] float32 of captions."""


class Scorer(Protocol):
    """A network of a spec that gives a number for an image and its caption."""

    def score(self, images_BHWC: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.float32]:
        """Scores [B] float32 of uint8 RGB images [B, H, W, 3], each with its caption."""


Extractor = ImageExtractor | PairedExtractor | Scorer  # which, its spec's `gives` says (ExtractorSpec)


class Towers(ABC):
    """What the CLIPs of all libraries share: embeddings of images are features too, and texts are read in batches."""

    spec: ExtractorSpec

    @abstractmethod
    def embed_images(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit embeddings [B, D] float32 of uint8 RGB images [B, H, W, 3]."""

    @abstractmethod
    def read(self, prompts: list[str]) -> NDArray[np.float32]:
        """Unit embeddings [N, D] float32 of one batch of texts, their prefix before them."""

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Image embeddings, as `embed_images`."""
        return self.embed_images(images_BHWC)

    def embed_text(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings [N, D] float32 of the prefixed captions, in batches of 256 from the first."""
        prompts = [self.spec.prefix + caption for caption in captions]
        starts = range(0, len(prompts), _TEXT_BATCH)
        with torch.inference_mode():
            rows = [self.read(prompts[start : start + _TEXT_BATCH]) for start in starts]
        return np.concatenate(rows or [np.empty((0, 0), np.float32)])


def is_paired(extractor: Extractor, spec: ExtractorSpec) -> TypeGuard[PairedExtractor]:
    """Whether the extractor of a spec is asked for images and for captions."""
    return spec.gives == "paired"


def is_scorer(extractor: Extractor, spec: ExtractorSpec) -> TypeGuard[Scorer]:
    """Whether the extractor of a spec is asked for both at once."""
    return spec.gives == "scorer"


def is_of_images(extractor: Extractor, spec: ExtractorSpec) -> TypeGuard[ImageExtractor]:
    """Whether the extractor of a spec is asked for images alone."""
    return spec.gives in ("features", "attributes")


def target_of(spec: ExtractorSpec) -> str:
    """ "module:Class" of a spec's kind, or what else the spec says."""
    return KINDS.get(spec.kind, spec.kind)


def extractor_class(spec: ExtractorSpec) -> Callable[[ExtractorSpec, str], Extractor]:
    """The class of a spec's kind, which may say `image_size` and `dimension`, the number of its features, before it is made.

    Raises InputError on an unknown kind.
    """
    target = target_of(spec)
    module, _, name = target.partition(":")
    if not name:
        raise InputError(f"extractor {spec.id}: found kind {spec.kind!r}, expected {', '.join(KINDS)} or module:Class")
    try:
        found: Callable[[ExtractorSpec, str], Extractor] = getattr(import_module(module), name)
        return found
    except Exception as error:  # a plugin's module may raise anything
        raise InputError(f"extractor {spec.id}: {target} cannot be imported ({error})") from error


def load_extractor(spec: ExtractorSpec, device: str = "cpu") -> Extractor:
    """The network of a spec, float32, in evaluation mode, on a device. Raises what `extractor_class` raises."""
    return extractor_class(spec)(spec, device)


def cut_by_extractor(spec: ExtractorSpec, captions: Sequence[str]) -> tuple[int, int] | None:
    """(captions that are longer, tokens that are read) of an extractor that embeds text, whose network is not loaded.

    Asks the function `cut_captions` in the module of its kind; None where that has none, as of a plugin. Raises what it raises.
    """
    module, _, name = target_of(spec).partition(":")
    count = getattr(import_module(module), "cut_captions", None) if name else None
    return None if count is None else count(spec, captions)


def to_tensor(images_BHWC: NDArray[np.uint8], device: str) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 255] on a device. Raises ValueError on another shape or dtype."""
    if images_BHWC.dtype != np.uint8 or images_BHWC.ndim != 4 or images_BHWC.shape[3] != 3:
        raise ValueError(f"images: found {images_BHWC.dtype} {images_BHWC.shape}, expected uint8 [B, H, W, 3]")
    channels_first = np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).to(device=device, dtype=torch.float32)
