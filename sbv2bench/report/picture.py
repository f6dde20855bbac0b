"""A grid of images as one labelled PNG: models down, captions across."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sbv2bench.atomic import whole_file
from sbv2bench.errors import InputError
from sbv2bench.specs import ModelSpec

CELL = 128  # pixels an image is shown at: small ones are enlarged by whole pixels, large ones reduced to twice this
GAP = 6  # between images
_LABEL, _FONT, _LINE = 150, 12, 15
_BACKGROUND, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Grid:
    """A row for each model, a column for each caption and seed, captions first.

    columns: (caption number in the suite, seed). images: of each model uint8 [columns, H, W, 3].
    """

    suite: str
    models: tuple[ModelSpec, ...]
    columns: tuple[tuple[int, int], ...]
    captions: tuple[str, ...]  # of each column
    images: tuple[NDArray[np.uint8], ...]


def draw_grid(grid: Grid) -> Image.Image:
    """The picture: a caption above each column with its seed, a model's id and how it is sampled before each row."""
    side = max(_shown_side(images.shape[1]) for images in grid.images)
    font = ImageFont.load_default(_FONT)
    heads = [_wrapped(caption, side) for caption in grid.captions]
    top = _LINE * (max(map(len, heads)) + 1) + 2 * GAP
    width = _LABEL + len(grid.columns) * (side + GAP) + GAP
    picture = Image.new("RGB", (width, top + len(grid.models) * (side + GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for column, (lines, (number, seed)) in enumerate(zip(heads, grid.columns, strict=True)):
        left = _LABEL + column * (side + GAP)
        draw.text((left, GAP), f"caption {number}, seed {seed}", _FAINT, font)
        for place, line in enumerate(lines, 1):
            draw.text((left, GAP + place * _LINE), line, _INK, font)
    for row, (model, images) in enumerate(zip(grid.models, grid.images, strict=True)):
        above = top + row * (side + GAP)
        labels = [*textwrap.wrap(_printable(model.id), 22), f"NFE {model.network_evaluations()}"]
        labels += [f"guidance {model.guidance_scale:g}"] if model.network_evaluations() > 1 else []
        for place, line in enumerate(labels):
            draw.text((GAP, above + place * _LINE), line, _FAINT if place == len(labels) - 1 else _INK, font)
        for column, pixels in enumerate(images):
            picture.paste(_resized(Image.fromarray(pixels), side), (_LABEL + column * (side + GAP), above))
    return picture


def check_output(path: Path) -> None:
    """Raises InputError for a name that no picture can have, before any is made."""
    if path.is_dir():
        raise InputError(f"--output: {path} is a folder, expected a file", f"--output {quote(str(path / 'grid.png'))}")
    if path.suffix.lower() != ".png":
        fix = f"--output {quote(str(path.with_suffix('.png')))}"
        raise InputError(f"--output: found {path}, expected a name that ends in .png", fix)


def write_grid(grid: Grid, path: Path) -> None:
    """Write the picture, whole or not at all; what it shows is in the file's text too. Raises InputError where it cannot be."""
    check_output(path)
    about = PngInfo()
    columns = [
        {"caption": number, "seed": seed, "text": text} for (number, seed), text in zip(grid.columns, grid.captions, strict=True)
    ]
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in grid.models]
    about.add_text("sbv2bench", json.dumps({"suite": grid.suite, "columns": columns, "models": models}), zip=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            draw_grid(grid).save(file, "PNG", pnginfo=about, optimize=True)
    except OSError as error:
        raise InputError(f"--output: {path} cannot be written ({error.strerror or error})") from error


def _shown_side(side: int) -> int:
    return side * max(1, CELL // side) if side <= CELL else min(side, 2 * CELL)


def _resized(image: Image.Image, side: int) -> Image.Image:
    """Enlarged without blurring, or reduced without aliasing."""
    grows = image.width <= side and side % image.width == 0
    return image.resize((side, side), Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _wrapped(text: str, side: int) -> list[str]:
    """At most five lines that fit an image's width."""
    return textwrap.wrap(_printable(text), max(8, side // 7), max_lines=5, placeholder=" ...")


def _printable(text: str) -> str:
    """A prompt is anybody's text: what is no character of a line is left out."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
