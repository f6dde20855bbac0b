"""The real pictures that a suite's generated images are compared with: fresh renderings of the world, or photographs in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data.archive import ImageArchive
from sbv2bench.data.assets import resolve_location
from sbv2bench.errors import IntegrityError
from sbv2bench.mini import rendering, world
from sbv2bench.specs import AssetSpec, SuiteSpec

_CAPTION_START = 2**40  # past every caption that a suite reports on or a student is trained with
KEY_START = 2**41  # past every key that a training picture was rendered with


def reference_blocks(suite: SuiteSpec, block_size: int = 100) -> Iterator[NDArray[np.uint8]]:
    """The suite's reference images in order, uint8 [b, 32, 32, 3] each, b = block_size but for the last block.

    Image j shows caption caption_offset + 2**40 + j of the suite's split, rendered by key 2**41 + caption_offset + j: other
    scenes than the prompts', and other pictures than any that a network was trained with.
    """
    wanted = suite.rendered or suite.prompts
    for start in range(0, suite.num_reference, block_size):
        index = np.arange(start, min(start + block_size, suite.num_reference), dtype=np.int64) + wanted.caption_offset
        scenes = world.scenes(wanted.split, index + _CAPTION_START, wanted.world_seed)
        yield rendering.render(scenes, index + KEY_START, wanted.world_seed)


def reference_archive(suite: SuiteSpec, assets: Mapping[str, AssetSpec] | None = None) -> ImageArchive | None:
    """The photographs of a suite whose reference lies in files, counted, and hashed where the suite says to what; else None.

    Raises what `ImageArchive` and `resolve_location` raise, and IntegrityError where number or hash are others.
    """
    wanted = suite.reference
    if wanted is None:
        return None
    archive = ImageArchive(resolve_location(wanted.location, assets=assets), turn=wanted.is_turned)
    archive.require_count(suite.num_reference, suite.inherited)
    if wanted.content_sha256 is not None and (found := archive.content_sha256()) != wanted.content_sha256:
        raise IntegrityError(
            f"reference: the images of {archive.path} are not the suite's\n"
            f"found content {found[:16]}, expected {wanted.content_sha256[:16]}"
        )
    return archive
