"""What a user may ask of a run: the options of `eval`, checked by themselves before anything is read or imported."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sbv2bench.machine.choices import DTYPES, MAX_BATCH, check_choice, check_device, check_whole, refused
from sbv2bench.samplers.placement import OFFLOADS, Offload

SaveImages = Literal["none", "sample", "all"]
SAVE_IMAGES = ("none", "sample", "all")
SIZES = range(8, 8193)  # pixels of a side
LARGEST_BLOCK = 256  # images that "largest" tries for
MAX_STEPS, MAX_GUIDANCE, MAX_REPEATS, MAX_SEED, MAX_IMAGES = 1000, 100.0, 1000, 2**63, 64


@dataclass(frozen=True)
class EvalOptions:
    """Options of one evaluation. Make it by `EvalOptions.validated`, which refuses what cannot be meant.

    metrics: flags of --metrics, or "all" that can be had; None: the suite's. limit: first images only, marks the result partial.
    seed, repeats: generation seeds seed, seed + 1, ... images_per_prompt: of each caption and seed; None keeps the suite's.
    steps, guidance_scale: None keeps the model's own. batch_size: the compute block; None keeps the suite's, "largest"
    is what a GPU has room for. results: folder of
    the result files. prompts, reference: a file of captions, and a folder or an archive of photographs, in place of the suite's;
    reference may be "none". resolution: (height, width) in place of the model's own. offload: what of a model lies on the device
    at a time. shard: (I, N), the I-th of N parts of the images alone, kept in the cache and not scored.
    """

    metrics: tuple[str, ...] | Literal["all"] | None = None
    limit: int | None = None
    seed: int = 0
    repeats: int = 1
    images_per_prompt: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | Literal["largest"] | None = None
    results: Path = Path("results")
    save_images: SaveImages = "none"
    dry_run: bool = False
    use_cache: bool = True
    catalog: Path | None = None
    prompts: Path | None = None
    reference: Path | Literal["none"] | None = None
    resolution: tuple[int, int] | None = None
    offload: Offload = "none"
    shard: tuple[int, int] | None = None

    @classmethod
    def validated(cls, **typed: Any) -> EvalOptions:
        """Options as typed to options as used. typed: fields, of which metrics may be "fid,pr", batch_size "auto", "16" or
        "largest", resolution 512 or "640x512", shard "2/8", and any path text. Raises InputError naming the option."""
        raw = cls(**typed)
        check_whole("--limit", raw.limit, 2, None, "a whole number of at least 2 (a spread needs two images)")
        check_whole("--seed", raw.seed, 0, MAX_SEED - 1, "a whole number from 0 to 2**63 - 1")
        check_whole("--repeats", raw.repeats, 1, MAX_REPEATS, f"a whole number from 1 to {MAX_REPEATS}")
        last = raw.seed + raw.repeats - 1
        check_whole("--seed", last, 0, MAX_SEED - 1, "the seed of the last repeat (seed + repeats - 1) below 2**63")
        check_whole("--images-per-prompt", raw.images_per_prompt, 1, MAX_IMAGES, f"a whole number from 1 to {MAX_IMAGES}")
        check_whole("--steps", raw.steps, 1, MAX_STEPS, f"a whole number from 1 to {MAX_STEPS}")
        scale = raw.guidance_scale
        if scale is not None and not (math.isfinite(scale) and 0 <= scale <= MAX_GUIDANCE):
            raise refused("--guidance-scale", scale, f"a number from 0 to {MAX_GUIDANCE:g} (1 is no guidance)")
        check_device(raw.device)
        check_choice("--dtype", raw.dtype, DTYPES)
        check_choice("--save-images", raw.save_images, SAVE_IMAGES)
        check_choice("--offload", raw.offload, OFFLOADS)
        shard = _shard(raw.shard)
        if shard and not raw.use_cache:
            raise refused("--no-cache", True, "the cache, which is where --shard keeps what it made", "--shard alone")
        if shard and raw.save_images != "none":
            raise refused("--save-images", raw.save_images, "none with --shard, which writes no result", "none")
        return replace(
            raw,
            shard=shard,
            metrics=_metrics(raw.metrics),
            batch_size=_batch_size(raw.batch_size),
            results=Path(raw.results).expanduser(),
            catalog=_path(raw.catalog),
            prompts=_path(raw.prompts),
            reference="none" if str(raw.reference) == "none" else _path(raw.reference),
            resolution=_resolution(raw.resolution),
        )

    @property
    def named_metrics(self) -> tuple[str, ...] | None:
        """The metrics that were asked for by name; None where none was."""
        return None if self.metrics == "all" else self.metrics

    def block_size(self, suites: int, device: str) -> int:
        """Images of a compute block. suites: of the suite's. Raises InputError where a device cannot be tried out."""
        if self.batch_size != "largest":
            return self.batch_size or suites
        if not device.startswith("cuda"):
            raise refused("--batch-size", "largest", f"a CUDA GPU to try it on, here is {device}", "auto")
        return LARGEST_BLOCK

    def decoded_together(self, suites: int) -> int:
        """Images of a block, before it is known how many fit."""
        return suites if self.batch_size == "largest" else self.batch_size or suites

    def has_own_data(self) -> bool:
        """Whether captions, photographs or a size take the place of a suite's, so that it is another suite."""
        return not (self.prompts is None and self.reference is None and self.resolution is None)


def _path(found: Path | str | None) -> Path | None:
    return None if found is None else Path(found).expanduser()


def _metrics(found: str | tuple[str, ...] | None) -> tuple[str, ...] | Literal["all"] | None:
    """Flags in the order given, each once; "all", alone or among others; None for the suite's own."""
    if found is None:
        return None
    flags = tuple(flag.strip() for flag in (found.split(",") if isinstance(found, str) else found))
    if not flags or not all(flags):
        raise refused("--metrics", found, "all, or flags with commas between, like fid,pr,clip", "all")
    return "all" if "all" in flags else tuple(dict.fromkeys(flags))


def _resolution(found: int | str | tuple[int, int] | None) -> tuple[int, int] | None:
    """ "640x512" to (640, 512), height first; one number is both."""
    if found is None:
        return None
    sides = [int(side) for side in str(found).split("x")] if re.fullmatch(r"\d{1,5}(x\d{1,5})?", str(found)) else []
    if not sides or not all(side in SIZES for side in sides):
        raise refused("--resolution", found, f"pixels, {SIZES[0]} to {SIZES[-1]}: one number, or HEIGHTxWIDTH", "512")
    return sides[0], sides[-1]


def _shard(found: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """ "2/8" to (2, 8)."""
    if found is None or isinstance(found, tuple):
        return found
    parts = [int(part) for part in found.split("/")] if re.fullmatch(r"\d{1,5}/\d{1,5}", found) else []
    if not parts or not 1 <= parts[0] <= parts[1]:
        raise refused("--shard", found, "I/N, the number of a part and how many there are, 1/8 to 8/8", "1/8")
    return parts[0], parts[1]


def _batch_size(found: int | str | None) -> int | Literal["largest"] | None:
    if found is None or found == "auto":
        return None
    if found == "largest":
        return "largest"
    try:
        size = int(found)
    except ValueError:
        size = 0
    if not 1 <= size <= MAX_BATCH:
        raise refused("--batch-size", found, f"auto, largest or a whole number from 1 to {MAX_BATCH}", "auto")
    return size
