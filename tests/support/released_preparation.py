"""The preparation of images in the released evaluation, step by step, as an oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def released_resize(image: Image.Image) -> Image.Image:
    """The released resize pass, written anew from a description of it."""
    pixels = np.array(image)  # no change of mode
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (int(np.rint((extent - side) / 2.0)) for extent in (height, width))  # rint rounds half to even
    return Image.fromarray(pixels[top : top + side, left : left + side]).resize((256, 256), Image.LANCZOS)


def released_steps(image: Image.Image, folder: Path) -> np.ndarray:
    """The released evaluation's own road, one PNG at each station."""
    image.save(folder / "generated.png")
    with Image.open(folder / "generated.png") as opened:
        released_resize(opened).save(folder / "resized.png")
    with Image.open(folder / "resized.png") as opened:
        return np.asarray(opened.convert("RGB"))
