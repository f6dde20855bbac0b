"""A grid of images as one labelled PNG: models down, captions across."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
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
LABEL, _FONT, _LINE = 150, 12, 15
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
    rows = []
    for model, images in zip(grid.models, grid.images, strict=True):
        labels = [*textwrap.wrap(_printable(model.id), 22), f"NFE {model.network_evaluations()}"]
        labels += [f"guidance {model.guidance_scale:g}"] if model.network_evaluations() > 1 else []
        rows.append((labels, images))
    heads = [f"caption {number}, seed {seed}" for number, seed in grid.columns]
    return draw_rows(rows, [*zip(heads, grid.captions, strict=True)])


def draw_rows(rows: Sequence[tuple[Sequence[str], NDArray[np.uint8]]], heads: Sequence[tuple[str, str]]) -> Image.Image:
    """Labelled rows of images under their captions. rows: (lines of the label, uint8 [columns, H, W, 3]).

    heads: (what identifies a column, its caption).
    """
    side = max(_shown_side(images.shape[1]) for _, images in rows)
    font = ImageFont.load_default(_FONT)
    captions = [_wrapped(caption, side) for _, caption in heads]
    top = _LINE * (max(map(len, captions)) + 1) + 2 * GAP
    width = LABEL + len(heads) * (side + GAP) + GAP
    picture = Image.new("RGB", (width, top + len(rows) * (side + GAP)), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for column, (lines, (name, _)) in enumerate(zip(captions, heads, strict=True)):
        left = LABEL + column * (side + GAP)
        draw.text((left, GAP), name, _FAINT, font)
        for place, line in enumerate(lines, 1):
            draw.text((left, GAP + place * _LINE), line, _INK, font)
    for row, (labels, images) in enumerate(rows):
        above = top + row * (side + GAP)
        for place, line in enumerate(labels):
            draw.text((GAP, above + place * _LINE), line, _FAINT if place == len(labels) - 1 else _INK, font)
        for column, pixels in enumerate(images):
            picture.paste(_resized(Image.fromarray(pixels), side), (LABEL + column * (side + GAP), above))
    return picture


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    whole = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), _BACKGROUND)
    above = 0
    for one in pictures:
        whole.paste(one, (0, above))
        above += one.height
    return whole


def tiles(grid: Grid) -> Image.Image:
    """The images alone, at their own size: models down, columns across. Raises InputError where their sizes differ."""
    if len({images.shape for images in grid.images}) > 1:
        sizes = ", ".join(
            f"{model.id} {images.shape[2]} x {images.shape[1]}" for model, images in zip(grid.models, grid.images, strict=True)
        )
        raise InputError(f"images side by side at their own size: found {sizes}, expected one size", "leave --native away")
    return Image.fromarray(np.concatenate([np.concatenate(list(images), axis=1) for images in grid.images]))


def check_output(path: Path) -> None:
    """Raises InputError for a name that no picture can have, before any is made."""
    if path.is_dir():
        raise InputError(f"--output: {path} is a folder, expected a file", f"--output {quote(str(path / 'grid.png'))}")
    if path.suffix.lower() != ".png":
        fix = f"--output {quote(str(path.with_suffix('.png')))}"
        raise InputError(f"--output: found {path}, expected a name that ends in .png", fix)


def write_grid(grid: Grid, path: Path, *, native: bool = False) -> None:
    """Write the picture, whole or not at all; what it shows is in the file's text too. Raises InputError where it cannot be.

    native: as `tiles`, which a page's gallery shows.
    """
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
            (tiles if native else draw_grid)(grid).save(file, "PNG", pnginfo=about, optimize=True)
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
