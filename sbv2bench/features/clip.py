"""OpenCLIP towers: CLIP score and, with fine-tuned weights, HPS.

From a folder in OpenCLIP's own layout, or, where the spec names an architecture of OpenCLIP's, from a bare state dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch.nn import functional

from sbv2bench.data.extractor_files import locate, weights_file
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.features.base import Towers, to_tensor
from sbv2bench.specs import ExtractorSpec
from sbv2bench.weights import compare_keys, load_state_dict

if TYPE_CHECKING:
    import torchvision

_CONFIG = "open_clip_config.json"


class OpenClipScorer(Towers):
    """Image and text embeddings of one OpenCLIP model, float32, L2-normalised.

    A folder has open_clip_config.json, open_clip_model.safetensors and the tokenizer's files; the network is built by
    open_clip from `local-dir:`, so nothing is fetched. Prompts get `spec.prefix` before them. spec.preparation: "" is
    open_clip's own transform of PIL images; "antialias" and "legacy_no_antialias" resize tensors, as HPSv2 does under
    torchvision since 0.17 and before it.
    """

    image_size = None
    square_only = False  # whether pictures that are not square are refused

    def __init__(self, spec: ExtractorSpec, device: str = "cpu") -> None:
        """Raises InputError on a preparation or an architecture that is not OpenCLIP's, PrerequisiteError if the weights are
        not there, IntegrityError if open_clip cannot build a model from them or they are a pickle that may not be read."""
        if spec.preparation not in ("", "antialias", "legacy_no_antialias"):
            raise InputError(
                f"extractor {spec.id}: found preparation {spec.preparation!r}, expected antialias or legacy_no_antialias"
            )
        self.spec = spec
        self.square_only = bool(spec.preparation)
        self.device = device
        model, self.preprocess, self.tokenize = _from_state_dict(spec) if spec.architecture else _from_folder(spec)
        # float16 on disk: the arithmetic is float32, and no dropout or patch dropout.
        self.model = model.float().to(device).eval().requires_grad_(False)
        self._size = _pair(model.visual.image_size)
        mean, std = model.visual.preprocess_cfg["mean"], model.visual.preprocess_cfg["std"]
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def read(self, prompts: list[str]) -> NDArray[np.float32]:
        """Unit embeddings [N, D] float32 of one batch of texts."""
        found: NDArray[np.float32] = self.model.encode_text(self.tokenize(prompts).to(self.device), normalize=True).cpu().numpy()
        return found

    def embed_images(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit embeddings [B, D] float32 of uint8 RGB images [B, H, W, 3].

        Images of the network's size are only scaled and normalised; others go through open_clip's own evaluation
        transform on PIL images (bicubic with antialiasing on uint8, centre crop), or as the spec's preparation says
        through `embed_pixels`. Raises ValueError where that is given pictures that are not square.
        """
        with torch.inference_mode():
            if self.spec.preparation:
                embeds = self.embed_pixels(to_tensor(images_BHWC, self.device) / 255.0)
            else:
                embeds = self.model.encode_image(self.pixels(images_BHWC), normalize=True)
        return np.asarray(embeds.cpu().numpy(), dtype=np.float32)

    def embed_pixels(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Unit embeddings [B, D] of square pictures [B, 3, S, S] in [0, 1], with gradient to the pixels: for training losses.

        Resized by a tensor operation, bicubic, not clamped, with antialiasing unless the spec's preparation is
        "legacy_no_antialias", where `embed_images` may resize PIL images. Raises ValueError where pictures are not square: a
        crop would hide pixels from the loss, and whether HPSv2 crops or pads them depends on its revision.
        """
        if pixels_BCHW.shape[-1] != pixels_BCHW.shape[-2]:
            raise ValueError(f"pixels: found {tuple(pixels_BCHW.shape)}, expected square pictures")
        if pixels_BCHW.shape[-2:] != self._size:
            antialias = self.spec.preparation != "legacy_no_antialias"
            pixels_BCHW = functional.interpolate(pixels_BCHW, self._size, mode="bicubic", antialias=antialias)
        embeds: torch.Tensor = self.model.encode_image((pixels_BCHW - self._mean) / self._std, normalize=True)
        return embeds

    def pixels(self, images_BHWC: NDArray[np.uint8]) -> torch.Tensor:
        """float32 [B, 3, S, S], normalised by the model's mean and deviation."""
        if images_BHWC.shape[1:3] == self._size:
            return (to_tensor(images_BHWC, self.device) / 255.0 - self._mean) / self._std
        resized = [self.preprocess(Image.fromarray(image)) for image in images_BHWC]
        return torch.stack(resized).to(self.device)


def cut_captions(spec: ExtractorSpec, captions: Sequence[str]) -> tuple[int, int]:
    """(captions of which words are dropped, tokens that the text tower reads, its two ends counted), by the tokenizer alone.

    The prefix is a part of what is read. Raises what `OpenClipScorer` raises over a folder or an architecture.
    """
    tokenize = open_clip.get_tokenizer(spec.architecture) if spec.architecture else _tokenizer(locate(spec), spec)
    prompts = [spec.prefix + caption for caption in captions]
    if hasattr(tokenize, "encode"):
        lengths = [len(tokenize.encode(prompt)) + 2 for prompt in prompts]
    else:
        cleaned = [tokenize.clean_fn(prompt) for prompt in prompts]
        lengths = [len(ids) for ids in tokenize.tokenizer(cleaned, truncation=False, verbose=False).input_ids]
    length = int(tokenize.context_length)
    return sum(own > length for own in lengths), length


def _from_folder(spec: ExtractorSpec) -> tuple[open_clip.CLIP, torchvision.transforms.Compose, open_clip.SimpleTokenizer]:
    """(model, evaluation transform, tokenizer) of a folder in OpenCLIP's layout."""
    folder = locate(spec)
    if spec.files:
        weights_file(spec)  # a pickle among them is read by open_clip only where it may be
    if not (folder / _CONFIG).is_file():
        raise IntegrityError(f"extractor {spec.id}: {folder} has no {_CONFIG}")
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", precision="fp32")
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise IntegrityError(f"extractor {spec.id}: open_clip cannot load {folder} ({str(error).splitlines()[0]})") from error
    return model, preprocess, _tokenizer(folder, spec)


def _tokenizer(folder: Path, spec: ExtractorSpec) -> open_clip.HFTokenizer:
    name = f"local-dir:{folder}"
    try:
        return open_clip.get_tokenizer(name, **_offline(name))
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise IntegrityError(f"extractor {spec.id}: open_clip cannot load {folder} ({str(error).splitlines()[0]})") from error


def _from_state_dict(spec: ExtractorSpec) -> tuple[open_clip.CLIP, torchvision.transforms.Compose, open_clip.SimpleTokenizer]:
    """The same of OpenCLIP's architecture of that name with the tensors of one file; its tokenizer ships with open_clip."""
    if open_clip.get_model_config(spec.architecture) is None:
        raise InputError(
            f"extractor {spec.id}: found architecture {spec.architecture!r}, expected one of open_clip.list_models()"
        )
    path = weights_file(spec)
    state = load_state_dict(path, known=True)  # weights_file has proved it
    model, _, preprocess = open_clip.create_model_and_transforms(spec.architecture, precision="fp32")
    compare_keys(state, model.state_dict(), str(path))
    model.load_state_dict(state)
    return model, preprocess, open_clip.get_tokenizer(spec.architecture)


def _offline(name: str) -> dict[str, object]:
    """Arguments that keep a Hugging Face tokenizer in the folder from asking the hub; OpenCLIP's own one takes none."""
    text = open_clip.get_model_config(name).get("text_cfg", {})
    return {"local_files_only": True} if text.get("hf_tokenizer_name") else {}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
