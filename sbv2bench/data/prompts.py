"""The captions of a suite, with what is known about them: the style of each, and the attributes that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data import caption_files, own_captions
from sbv2bench.data.assets import resolve_location
from sbv2bench.data.benchmark_prompts import read_benchmark
from sbv2bench.errors import InputError
from sbv2bench.mini import world
from sbv2bench.specs import AssetSpec, SuiteSpec


@dataclass(frozen=True)
class Prompts:
    """N captions; caption i of the suite keeps its number i (and so its noise) under any limit.

    styles: the style of each caption, its task or its category, where the suite has some. attributes: int64 [N, 9], a column
    for each name in `world.ATTRIBUTES`, `world.FREE` where the caption names nothing. false_captions: of each caption a hard
    negative, the sentence with one named attribute made false. first_index: number of the first caption. unread: where nothing
    looks at the captions, which are "" then, what they would hash to; "" where there are none.
    """

    captions: tuple[str, ...]
    styles: tuple[str, ...] | None = None
    attributes: NDArray[np.int64] | None = None
    false_captions: tuple[str, ...] | None = None
    first_index: int = 0
    unread: str | None = None

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of the raw captions joined with newlines, UTF-8."""
        return caption_files.captions_sha256(self.captions) if self.unread is None else self.unread


def load_prompts(
    suite: SuiteSpec, limit: int | None = None, assets: Mapping[str, AssetSpec] | None = None, *, read: bool = True
) -> Prompts:
    """The suite's first num_generated captions, or the first `limit` of them; a list in a file is checked whole.

    assets: declared downloads, the built-in ones by default. read: False where nothing looks at them, so that the file need
    not be here. Raises InputError if the limit is below 2 or above the suite's number of captions, and what `read_captions`,
    `read_styles` and `read_benchmark` raise; PrerequisiteError where the file is not here.
    """
    count = suite.num_generated if limit is None else limit
    if not 2 <= count <= suite.num_generated:  # there is no covariance of one image
        raise InputError(
            f"--limit: found {limit}, expected 2 to {suite.num_generated}, the number of captions of suite {suite.id}",
            fix=f"--limit {min(200, suite.num_generated)}",
        )
    wanted = suite.prompts
    if wanted.kind == "none" or not read:
        return Prompts(("",) * count, unread=wanted.captions_sha256 or "")
    if wanted.kind == "world":
        return _of_the_world(suite, count)
    path = resolve_location(wanted.location, assets=assets)
    if wanted.kind == "coco2014":
        return Prompts(caption_files.read_captions(path, suite.num_generated, wanted.captions_sha256)[:count])
    if wanted.kind == "file":
        return Prompts(own_captions.read_own_captions(path).checked(path, suite.num_generated, wanted.captions_sha256)[:count])
    if wanted.kind == "hpsv2":
        prompts, styles = caption_files.read_styles(path, suite.num_generated, wanted.captions_sha256)
        return Prompts(prompts[:count], styles[:count])
    prompts, tags = read_benchmark(wanted.kind, path, suite.num_generated, wanted.captions_sha256)
    return Prompts(prompts[:count], tags and tags[:count])


def _of_the_world(suite: SuiteSpec, count: int) -> Prompts:
    wanted = suite.prompts
    drawn = world.scenes(wanted.split, range(wanted.caption_offset, wanted.caption_offset + count), wanted.world_seed)
    styles = tuple(world.STYLES[style] for style in drawn.column("style"))
    false = world.hard_negatives(drawn, np.arange(count, dtype=np.int64) + wanted.caption_offset, wanted.world_seed)
    return Prompts(tuple(world.captions(drawn)), styles, drawn.attributes, tuple(world.captions(false)))
