"""What a user may ask of a run: the options of `eval`, checked by themselves before anything is read or imported."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sbv2bench.machine.choices import DTYPES, MAX_BATCH, check_choice, check_device, check_whole, refused

SaveImages = Literal["none", "sample", "all"]
SAVE_IMAGES = ("none", "sample", "all")
SIZES = range(8, 8193)  # pixels of a side
MAX_STEPS, MAX_GUIDANCE, MAX_REPEATS, MAX_SEED = 1000, 100.0, 1000, 2**63


@dataclass(frozen=True)
class EvalOptions:
    """Options of one evaluation. Make it by `EvalOptions.validated`, which refuses what cannot be meant.

    metrics: flags of --metrics, or "all" that can be had; None: the suite's.
    limit: first images only, marks the result partial.
    seed, repeats: generation seeds seed, seed + 1, ... steps, guidance_scale: None keeps the model's own.
    batch_size: the compute block; None keeps the suite's. results: folder of the result files. prompts, reference: a file of
    captions, and a folder or an archive of photographs, in place of the suite's; reference may be "none". resolution: (height,
    width) in place of the model's own.
    """

    metrics: tuple[str, ...] | Literal["all"] | None = None
    limit: int | None = None
    seed: int = 0
    repeats: int = 1
    steps: int | None = None
    guidance_scale: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    results: Path = Path("results")
    save_images: SaveImages = "none"
    dry_run: bool = False
    use_cache: bool = True
    catalog: Path | None = None
    prompts: Path | None = None
    reference: Path | Literal["none"] | None = None
    resolution: tuple[int, int] | None = None

    @classmethod
    def validated(
        cls,
        *,
        metrics: str | tuple[str, ...] | None = None,
        limit: int | None = None,
        seed: int = 0,
        repeats: int = 1,
        steps: int | None = None,
        guidance_scale: float | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str | None = None,
        results: Path | str = Path("results"),
        save_images: str = "none",
        dry_run: bool = False,
        use_cache: bool = True,
        catalog: Path | str | None = None,
        prompts: Path | str | None = None,
        reference: Path | str | None = None,
        resolution: int | str | None = None,
    ) -> EvalOptions:
        """Options as typed ("fid,pr", "auto", "16") to options as used. Raises InputError naming the option."""
        check_whole("--limit", limit, 2, None, "a whole number of at least 2 (a spread needs two images)")
        check_whole("--seed", seed, 0, MAX_SEED - 1, "a whole number from 0 to 2**63 - 1")
        check_whole("--repeats", repeats, 1, MAX_REPEATS, f"a whole number from 1 to {MAX_REPEATS}")
        check_whole("--seed", seed + repeats - 1, 0, MAX_SEED - 1, "the seed of the last repeat (seed + repeats - 1) below 2**63")
        check_whole("--steps", steps, 1, MAX_STEPS, f"a whole number from 1 to {MAX_STEPS}")
        if guidance_scale is not None and not (math.isfinite(guidance_scale) and 0 <= guidance_scale <= MAX_GUIDANCE):
            raise refused("--guidance-scale", guidance_scale, f"a number from 0 to {MAX_GUIDANCE:g} (1 is no guidance)")
        check_device(device)
        check_choice("--dtype", dtype, DTYPES)
        check_choice("--save-images", save_images, SAVE_IMAGES)
        return cls(
            metrics=_metrics(metrics),
            limit=limit,
            seed=seed,
            repeats=repeats,
            steps=steps,
            guidance_scale=guidance_scale,
            device=device,
            dtype=dtype,
            batch_size=_batch_size(batch_size),
            results=Path(results).expanduser(),
            save_images=save_images,  # type: ignore[arg-type]  # checked
            dry_run=dry_run,
            use_cache=use_cache,
            catalog=None if catalog is None else Path(catalog).expanduser(),
            prompts=None if prompts is None else Path(prompts).expanduser(),
            reference=None if reference is None else "none" if str(reference) == "none" else Path(reference).expanduser(),
            resolution=_resolution(resolution),
        )

    @property
    def named_metrics(self) -> tuple[str, ...] | None:
        """The metrics that were asked for by name; None where none was."""
        return None if self.metrics == "all" else self.metrics

    def has_own_data(self) -> bool:
        """Whether captions, photographs or a size take the place of a suite's, so that it is another suite."""
        return not (self.prompts is None and self.reference is None and self.resolution is None)


def _metrics(found: str | tuple[str, ...] | None) -> tuple[str, ...] | Literal["all"] | None:
    """Flags in the order given, each once; "all", alone or among others; None for the suite's own."""
    if found is None:
        return None
    flags = tuple(flag.strip() for flag in (found.split(",") if isinstance(found, str) else found))
    if not flags or not all(flags):
        raise refused("--metrics", found, "all, or flags with commas between, like fid,pr,clip", "all")
    return "all" if "all" in flags else tuple(dict.fromkeys(flags))


def _resolution(found: int | str | None) -> tuple[int, int] | None:
    """ "640x512" to (640, 512), height first; one number is both."""
    if found is None:
        return None
    sides = [int(side) for side in str(found).split("x")] if re.fullmatch(r"\d{1,5}(x\d{1,5})?", str(found)) else []
    if not sides or not all(side in SIZES for side in sides):
        raise refused("--resolution", found, f"pixels, {SIZES[0]} to {SIZES[-1]}: one number, or HEIGHTxWIDTH", "512")
    return sides[0], sides[-1]


def _batch_size(found: int | str | None) -> int | None:
    if found is None or found == "auto":
        return None
    try:
        size = int(found)
    except ValueError:
        size = 0
    if not 1 <= size <= MAX_BATCH:
        raise refused("--batch-size", found, f"auto or a whole number from 1 to {MAX_BATCH}", "auto")
    return size
