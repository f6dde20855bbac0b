"""CLIP in the layout of transformers: OpenAI's two ViT-L/14, for CLIP score and CMMD, and PickScore's ViT-H/14.

A folder has config.json, model.safetensors (or pytorch_model.bin), vocab.json and merges.txt. What is done to an image is the
spec's preparation. All of them go through uint8 pictures of Pillow, resized by its bicubic filter, which antialiases; then
pixels / 255, less OpenAI's mean, by OpenAI's deviation, float32. They give the same pixels wherever pictures are square.

- "" is OpenAI's transform (openai/CLIP clip/clip.py): the shorter side to the network's, the longer in proportion and rounded
  down; the centre cropped, half a margin rounded to even, as torchvision does.
- "processor" is that of transformers' CLIPImageProcessor, which PickScore's code calls: half a margin is rounded down.
- "crop-first" is google-research/cmmd's io_util.py: the centred square on the shorter side, half a margin rounded down, then
  resized. Its embedding.py resizes once more, in JAX, but pictures have the network's size by then.
  Its loader drops what is left over after the last whole batch of 32; here every image counts. cmmd-pytorch's second resize is
  without antialiasing, which shows where its network is handed arrays of another size.

Text: no prefix, but for the spec's own; cut to the tower's 77 tokens, of which the ends are two; the end's embedding is read,
so that what pads a text does not count. The BPE is transformers': it lower-cases, and unlike OpenAI's it neither mends broken
Unicode (ftfy) nor unescapes HTML, which changes captions with such mistakes only.

PickScore is exp(logit_scale) times the cosine (yuvalkirstain/PickScore README.md, trainer/scripts/eval_preference_predictor.py),
the scale as the weights have it, about 100; its README goes on to a softmax over the images of one prompt, which is no score of
one image. Its text encoder reads the bare prompt. Its repository has its own copy of the processor of laion's CLIP-H, which
the README names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from sbv2bench.data.extractor_files import locate
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.features.base import Towers, to_tensor
from sbv2bench.features.pretrained import network_of, padded, reading
from sbv2bench.specs import ExtractorSpec

PREPARATIONS = ("", "processor", "crop-first")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # openai/CLIP


class ClipEmbeddings(Towers):
    """Image and text embeddings of one CLIP, float32, L2-normalised."""

    image_size = None

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises InputError on another preparation, PrerequisiteError where the weights are not there, IntegrityError where they
        are not a CLIP's or a pickle that may not be read."""
        if spec.preparation not in PREPARATIONS:
            known = ", ".join(filter(None, PREPARATIONS))
            raise InputError(f"extractor {spec.id}: found preparation {spec.preparation!r}, expected none, {known}")
        self.spec, self.device = spec, device
        self.model = network_of(CLIPModel, spec).to(device)
        self.tokenizer = vocabulary(spec)
        self.side = int(self.model.config.vision_config.image_size)
        self._length = int(self.model.config.text_config.max_position_embeddings)
        self._mean, self._std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, STD))

    def embed_images(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit embeddings [B, D] float32 of uint8 RGB images [B, H, W, 3] of any size."""
        with torch.inference_mode():
            seen = self.model.vision_model(pixel_values=self.pixels(images_BHWC)).pooler_output
            return _unit(self.model.visual_projection(seen))

    def read(self, prompts: list[str]) -> NDArray[np.float32]:
        """Unit embeddings [N, D] float32 of one batch of texts."""
        tokens = padded(self.tokenizer, prompts, self._length).to(self.device)
        return _unit(self.model.text_projection(self.model.text_model(**tokens).pooler_output))

    def pixels(self, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        """float32 [B, 3, S, S] on the device: prepared as the spec says, and normalised."""
        to_tensor(images_BHWC[:1], "cpu")  # raises on another shape or dtype
        small = np.stack([np.asarray(prepared(Image.fromarray(x), self.side, self.spec.preparation)) for x in images_BHWC])
        return (to_tensor(small, self.device) / 255.0 - self._mean) / self._std


class ClipLogits(ClipEmbeddings):
    """The same towers as a scorer: exp(logit_scale) times the cosine of an image with its caption, as PickScore."""

    def score(self, images_BHWC: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.float32]:
        """Scores [B] float32 of uint8 RGB images [B, H, W, 3], each with its caption."""
        cosines = np.einsum("bd,bd->b", self.embed_images(images_BHWC), self.embed_text(captions))
        return np.asarray(math.exp(self.model.logit_scale.item()) * cosines, dtype=np.float32)


def prepared(image: Image.Image, side: int, preparation: str) -> Image.Image:
    """An RGB picture of any size as one of side x side pixels, as a preparation of the module's says."""
    width, height = image.size
    short = min(width, height)
    if preparation == "crop-first":
        left, top = (width - short) // 2, (height - short) // 2
        return image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)
    long = int(side * max(width, height) / short)
    width, height = (side, long) if width <= height else (long, side)
    rounded = math.floor if preparation == "processor" else round
    left, top = rounded((width - side) / 2), rounded((height - side) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))


def vocabulary(spec: ExtractorSpec) -> CLIPTokenizer:
    """The byte-pair tokenizer of vocab.json and merges.txt in a spec's folder, by these two alone. Raises IntegrityError."""
    paths = [locate(spec) / name for name in ("vocab.json", "merges.txt")]
    for path in paths:
        if not path.is_file():  # the library would go on without it
            raise IntegrityError(f"extractor {spec.id}: {path.parent} has no {path.name}", "copy or download the whole model")
    with reading(paths[0].parent):
        return CLIPTokenizer(vocab=str(paths[0]), merges=str(paths[1]))


def cut_captions(spec: ExtractorSpec, captions: Sequence[str]) -> tuple[int, int]:
    """(captions of which words are dropped, tokens that the text tower reads, its two ends counted), by the tokenizer alone.

    The prefix is a part of what is read. Raises what `ClipEmbeddings` raises over a folder.
    """
    with reading(locate(spec)):
        config = CLIPConfig.from_pretrained(locate(spec), local_files_only=True)
    length = int(config.text_config.max_position_embeddings)
    lengths = [len(ids) for ids in vocabulary(spec)([spec.prefix + caption for caption in captions], verbose=False).input_ids]
    return sum(own > length for own in lengths), length


def _unit(embeds: torch.Tensor) -> NDArray[np.float32]:
    return functional.normalize(embeds, dim=-1).cpu().numpy()
