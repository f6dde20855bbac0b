"""What every sampler is: a block of prompts in, uint8 images out, seeds that belong to images.

The noise of a caption is drawn on the CPU in float32 by a generator of its own, seeded by a hash of (seed, caption
index), so an image depends on neither its neighbours, nor the device, nor where a run was resumed.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Images = NDArray[np.uint8]
Stage = Literal["text", "denoise", "decode"]


@dataclass(frozen=True)
class PromptBlock:
    """A fixed number of consecutive prompts, computed together.

    index: number of the block; blocks have the same length, so its first prompt is number index * length of the list, or, where
    a block was cut smaller, number row. first: the caption index of that prompt, which numbers its image. count: how many of
    the rows are real; captions and noise_seeds have the full length, padded by repeating the last row. seed, k: the generation
    seed, and which image of each caption.
    """

    index: int
    first: int
    count: int
    captions: tuple[str, ...]
    noise_seeds: tuple[int, ...]
    row: int | None = None
    seed: int = 0
    k: int = 0

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 [block size, *shape] on the CPU: each row by its own seed, whatever the block."""
        return initial_noise(generators(self.noise_seeds), shape)

    @property
    def place(self) -> int:
        """Number of its first prompt in the list."""
        return self.index * len(self.captions) if self.row is None else self.row


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _wait_for_own_work(device: torch.device) -> None:
    """As `wait_for`, but of a CUDA device for this thread's stream alone: another's work goes on."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    else:
        wait_for(device)


class Stopwatch:
    """Seconds spent in each stage, summed over calls; it may be shared by threads. device: torch's name of it."""

    def __init__(self, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[Stage, float] = {"text": 0.0, "denoise": 0.0, "decode": 0.0}
        self._device = torch.device(device)
        self._clock = clock
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Adds the time of its block, until the device has done what this thread asked of it."""
        _wait_for_own_work(self._device)
        start = self._clock()
        yield
        _wait_for_own_work(self._device)
        with self._lock:
            self.seconds[name] += self._clock() - start


class Sampler(Protocol):
    """A model that can be asked for images. `generate` may be called from several threads at once."""

    spec: ModelSpec
    resolution: int  # height of the images, and their width unless the sampler has an attribute `width`
    network_calls: int  # forward passes of the denoiser for one image, as declared; a guided step counts two

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, height, width, 3], a row for each of the block's, padding included.

        Raises IntegrityError where a model makes pixels that are not numbers.
        """
        ...

    def pipeline(self) -> DiffusionPipeline:
        """A diffusers pipeline that makes the same images of the same noise. Raises InputError where there is none."""
        ...


@runtime_checkable
class HasNetworks(Protocol):
    """A sampler whose networks can be weighed and compiled; a plugin's need not be one."""

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks themselves, not copies, by their part of a pipeline: "unet" or "transformer", "vae", "text_encoder"."""
        ...


# What only `sampler: pipeline` reads of a spec.
OF_PIPELINES = ("no_guidance", "guidance_argument", "negative_prompt", "max_sequence_length", "sigmas", "arguments")


def refuse_unused(spec: ModelSpec, *names: str) -> None:
    """Raises InputError where a spec says something that its sampler does not read. names: of those fields of a ModelSpec."""
    for name in names:
        if getattr(spec, name) != ModelSpec.model_fields[name].default:
            found = spec.model_dump(mode="json")[name]
            raise InputError(
                f"{spec.id}: {name} is {found}, which `sampler: {spec.sampler}` does not use", f"take {name} out of its spec"
            )


def size_of(sampler: Sampler) -> tuple[int, int]:
    """(height, width) of a sampler's images in pixels; a plugin's sampler may know nothing of widths."""
    return sampler.resolution, getattr(sampler, "width", None) or sampler.resolution


def image_seed(seed: int, caption_index: int, k: int = 0) -> int:
    """The 64-bit seed of one image's generator: blake2b of "seed:index", beyond a caption's first image "seed:index:k"."""
    words = f"{seed}:{caption_index}" + (f":{k}" if k else "")
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big")


def generators(noise_seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each seed (0 <= seed < 2**64)."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in noise_seeds]


def initial_noise(rngs: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal float32 [B, *shape] on the CPU; row i is drawn by generator i, which moves on."""
    return torch.stack([torch.randn(*shape, generator=rng, dtype=torch.float32) for rng in rngs])


def to_uint8(images_BCHW: Tensor) -> Images:
    """Float images in [0, 1] -> uint8 [B, H, W, C]: floor(255 x + 0.5) after clamping, rounding half up as torchvision does.

    Raises IntegrityError on a NaN or an infinity, which would become an arbitrary colour.
    """
    narrow = images_BCHW.dtype != torch.float32  # float16 overflows where float32 does not
    images_BCHW = images_BCHW.to(torch.float32)
    finite = images_BCHW.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        rows = (~finite).nonzero().flatten().tolist()
        raise IntegrityError(
            f"{len(rows)} of {len(finite)} images of a block (rows {rows[:3]}...) hold pixels that are not numbers",
            "--dtype float32" if narrow else None,
        )
    levels = (images_BCHW.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
