"""OpenCLIP towers, from a folder in OpenCLIP's own layout: CLIP score and, with fine-tuned weights, HPS (protocols.md 4, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch.nn import functional

from sbv2bench.data.assets import resolve_location
from sbv2bench.errors import IntegrityError
from sbv2bench.features.base import to_tensor
from sbv2bench.specs import ExtractorSpec

_TEXT_BATCH = 256  # fixed, so that a text's embedding does not depend on who asks for it
_CONFIG = "open_clip_config.json"


class OpenClipScorer:
    """Image and text embeddings of one OpenCLIP model, float32, L2-normalised.

    The folder has open_clip_config.json, open_clip_model.safetensors and the tokenizer's files; the network is built by
    open_clip from `local-dir:`, so nothing is fetched. Prompts get `spec.prefix` before them.
    """

    image_size = None

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises PrerequisiteError if the folder is not there, IntegrityError if open_clip cannot build a model from it."""
        self.spec = spec
        self.device = device
        folder = resolve_location(spec.location)
        if not (folder / _CONFIG).is_file():
            raise IntegrityError(f"extractor {spec.id}: {folder} has no {_CONFIG}")
        name = f"local-dir:{folder}"
        try:
            model, _, self.preprocess = open_clip.create_model_and_transforms(name, precision="fp32", device=device)
            self.tokenize = open_clip.get_tokenizer(name, **_offline(name))
        except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise IntegrityError(f"extractor {spec.id}: open_clip cannot load {folder} ({str(error).splitlines()[0]})") from error
        # float16 on disk: the arithmetic is float32, and no dropout or patch dropout.
        self.model = model.float().eval().requires_grad_(False)
        self._size = _pair(model.visual.image_size)
        mean, std = model.visual.preprocess_cfg["mean"], model.visual.preprocess_cfg["std"]
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Image embeddings, as `embed_images`."""
        return self.embed_images(images_BHWC)

    def embed_text(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings [N, D] float32 of the prefixed captions, in batches of 256 from the first."""
        prompts = [self.spec.prefix + caption for caption in captions]
        rows = [np.empty((0, 0), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(prompts), _TEXT_BATCH):
                tokens = self.tokenize(prompts[start : start + _TEXT_BATCH]).to(self.device)
                rows.append(self.model.encode_text(tokens, normalize=True).cpu().numpy())
        return np.concatenate(rows[1:] or rows)

    def embed_images(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit embeddings [B, D] float32 of uint8 RGB images [B, H, W, 3].

        Images of the network's size are only scaled and normalised; others go through open_clip's own evaluation
        transform on PIL images (bicubic with antialiasing on uint8, centre crop).
        """
        with torch.inference_mode():
            embeds = self.model.encode_image(self._pixels(images_BHWC), normalize=True)
        return np.asarray(embeds.cpu().numpy(), dtype=np.float32)

    def embed_pixels(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Unit embeddings [B, D] of square pictures [B, 3, S, S] in [0, 1], with gradient to the pixels: for training losses.

        Resized by a tensor operation, bicubic with antialiasing, where `embed_images` resizes PIL images. Raises ValueError
        where pictures are not square: a crop would hide pixels from the loss.
        """
        if pixels_BCHW.shape[-1] != pixels_BCHW.shape[-2]:
            raise ValueError(f"pixels: found {tuple(pixels_BCHW.shape)}, expected square pictures")
        if pixels_BCHW.shape[-2:] != self._size:
            pixels_BCHW = functional.interpolate(pixels_BCHW, self._size, mode="bicubic", antialias=True)
        embeds: torch.Tensor = self.model.encode_image((pixels_BCHW - self._mean) / self._std, normalize=True)
        return embeds

    def _pixels(self, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        """float32 [B, 3, S, S], normalised by the model's mean and deviation."""
        if images_BHWC.shape[1:3] == self._size:
            return (to_tensor(images_BHWC, self.device) / 255.0 - self._mean) / self._std
        resized = [self.preprocess(Image.fromarray(image)) for image in images_BHWC]
        return torch.stack(resized).to(self.device)


def _offline(name: str) -> dict[str, Any]:
    """Arguments that keep a Hugging Face tokenizer in the folder from asking the hub; OpenCLIP's own one takes none."""
    text = open_clip.get_model_config(name).get("text_cfg", {})
    return {"local_files_only": True} if text.get("hf_tokenizer_name") else {}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
