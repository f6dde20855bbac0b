"""The released evaluation's image preparation, in memory: centre crop, then PIL's Lanczos to 256 px.

A suite may say another side.
Its script writes a PNG and reads it back, which changes no byte; so this is the same numbers in one pass.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 256  # of the released evaluation
_NAME = "centre-crop-lanczos-"  # what a suite calls it, with the side


def preparation_of(side: int) -> str:
    """The word for it in a suite."""
    return f"{_NAME}{side}"


def side_of(preparation: str | None) -> int | None:
    """Side in pixels of what a suite's preparation makes; None of images as they are. Raises ValueError on another word."""
    return None if preparation is None else int(preparation.removeprefix(_NAME))


def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the centred square on the shorter side, offsets rounded half to even.

    torchvision's rule, int(round(margin / 2.0)): floor division gives another box where a margin is 3 modulo 4.
    """
    side = min(width, height)
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    return left, top, left + side, top + side


def prepare_image(image: Image.Image, side: int = SIDE) -> NDArray[np.uint8]:
    """A picture of mode RGB or L to uint8 [side, side, 3]; grey becomes three equal channels, as later readers make it."""
    square = image.crop(crop_box(*image.size)).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(square.convert("RGB"))


def prepare(images_BHWC: NDArray[np.uint8], threads: int = 1, side: int = SIDE) -> NDArray[np.uint8]:
    """uint8 RGB images [B, H, W, 3] to [B, side, side, 3]; the rows do not depend on each other or on the threads."""

    def one(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return prepare_image(Image.fromarray(image), side)

    if threads == 1:
        return np.stack([one(image) for image in images_BHWC])
    with ThreadPoolExecutor(threads) as pool:  # PIL lets go of the interpreter while it resizes
        return np.stack(list(pool.map(one, images_BHWC)))
