"""What one metric is computed from: the rows that its extractor measured, and what is known of the captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.specs import ExtractorSpec

Array = NDArray[np.number]


def _made(name: str, make: Callable[[], Array]) -> Array:
    return make()


@dataclass(frozen=True)
class Rows:
    """The argument of a metric's target.

    generated: what the extractor gave for N captions' images, in caption order, the images of a caption beside each other:
    float32 [N * images_per_prompt, D] (features, and a paired extractor's images), float32 [N * images_per_prompt] (scorer),
    int64 [N * images_per_prompt, A] (attributes); None where a metric reads a clock. reference: the same of M reference images,
    or None. text: a paired extractor's embeddings of the captions, float32 [N, D]. parameters: the metric's.

    Besides: false_text [N, D], embeddings of each caption's hard negative; styles of the captions (or tasks, or categories), and
    folders of the reference images, by which some are told apart in the same words; attributes that the captions name, int64
    [N, A]; the extractor's spec; latency, as `quick_latency` gives it; the device that a metric may compute on.
    kept(name, make) is make(), an array that depends on the reference alone, computed once for each reference and extractor and
    then read from the cache.
    """

    generated: Array | None = None
    reference: Array | None = None
    text: Array | None = None
    captions: tuple[str, ...] = ()
    images_per_prompt: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    false_text: Array | None = None
    styles: tuple[str, ...] | None = None
    folders: tuple[str, ...] | None = None
    attributes: Array | None = None
    extractor: ExtractorSpec | None = None
    latency: Mapping[str, Any] | None = None
    device: str = "cpu"
    kept: Callable[[str, Callable[[], Array]], Array] = _made

    def pair(self) -> tuple[Array, Array]:
        """(generated, reference), of a metric that declares a reference."""
        assert self.generated is not None and self.reference is not None
        return self.generated, self.reference
