"""Images that somebody else made: a folder of files, in natural order, proved before they count."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sbv2bench.errors import InputError, IntegrityError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MODES = frozenset({"RGB", "L", "P", "1", "RGBA", "LA", "CMYK"})  # eight bits a channel at most, so RGB loses nothing
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises over broken files
REMOVE = "remove it from the folder, or write it again"


class ImageFolder:
    """The png, jpg, jpeg and webp files of a folder (not of its subfolders), of one size, in natural order: 2.png before 10.png.

    files: in that order. size: (width, height) of all of them. Hidden files are left out.
    """

    def __init__(self, path: Path) -> None:
        """Reads every header. Raises InputError (no folder, no images) or IntegrityError (not an image, another size)."""
        if not path.is_dir():
            found = "a file" if path.is_file() else "nothing"
            raise InputError(f"image folder: {path} is {found}, expected a folder of images")
        visible = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        self.path = path
        self.files = tuple(sorted((file for file in visible if file.suffix.lower() in SUFFIXES), key=natural_key))
        Image.init()
        others = sorted(file.name for file in visible if file.suffix.lower() in Image.EXTENSION and file not in self.files)
        if others:
            names = ", ".join(others[:3])
            raise InputError(
                f"image folder: {path} holds {len(others)} images of other kinds ({names}), expected png, jpg or webp"
            )
        if not self.files:
            raise InputError(f"image folder: {path} holds no images, expected {', '.join(sorted(SUFFIXES))}")
        self.size = _header_size(self.files[0])
        for file in self.files[1:]:
            if (size := _header_size(file)) != self.size:
                raise IntegrityError(
                    f"{file}: found {size[0]}x{size[1]} pixels, expected {self.size[0]}x{self.size[1]} like {self.files[0].name}"
                )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Images start .. stop - 1 as uint8 [stop - start, H, W, 3].

        Raises IndexError outside the folder; IntegrityError, naming the file, where one is cut, or has transparency.
        """
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"images {start} to {stop} of {len(self)}")
        return np.stack([_read(file, self.size) for file in self.files[start:stop]])

    def require_count(self, prompts: int, limited: bool = False) -> None:
        """Raises IntegrityError unless there is an image for each prompt and none over (limited: more are allowed)."""
        if len(self) < prompts or (len(self) > prompts and not limited):
            raise IntegrityError(
                f"image folder: {self.path} holds {len(self)} images for {prompts} prompts, expected one each, in order",
                f"sbv2bench eval --model {shlex.quote(str(self.path))} --limit {len(self)}"
                if len(self) < prompts
                else "keep only the images of these prompts",
            )


def natural_key(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Sorts names with their digits as numbers; the plain name decides between equals (1.png and 01.png)."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], path.name


def _header_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image whose pixels can be had as RGB."""
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
    except UnidentifiedImageError as error:
        raise IntegrityError(f"{path}: found a file that is not an image", REMOVE) from error
    except _UNREADABLE as error:
        raise IntegrityError(f"{path}: cannot be read as an image: {error}", REMOVE) from error
    if mode not in MODES:
        raise IntegrityError(f"{path}: found pixels of mode {mode}, expected 8-bit colour or grey", REMOVE)
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:  # PIL only warns up to twice that
        raise IntegrityError(
            f"{path}: found {size[0]}x{size[1]} pixels, expected at most {Image.MAX_IMAGE_PIXELS} in all", REMOVE
        )
    return size


def _read(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            opaque = not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)
            pixels = np.asarray(image.convert("RGB"))
    except _UNREADABLE as error:
        raise IntegrityError(f"{path}: the image is broken or cut ({error})", REMOVE) from error
    if not opaque:
        raise IntegrityError(f"{path}: found transparent pixels, which have no one colour, expected an opaque image", REMOVE)
    if pixels.shape != (size[1], size[0], 3):
        raise IntegrityError(
            f"{path}: found {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {size[0]}x{size[1]}: it changed"
        )
    return pixels
