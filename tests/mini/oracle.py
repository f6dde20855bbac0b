"""Two independent readers of the captioned world, for its tests.

`parse_caption` reads a sentence by the grammar; `read_picture` reads pixels without any parameter of the scene. Neither
imports `sbv2bench`: the vocabulary, the base colours and the outlines of the shapes are written down here once more.
The picture reader is allowed to be imperfect; the tests state how good it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import ndimage

SIZE = 32
STYLES = ("photo", "cartoon", "painting", "neon")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted")
TRAILING = ("without pattern", "with stripes", "with dots")
SIZES = ("small", "large")
NAMES = ("style", "layout", "shape_0", "colour_0", "texture_0", "size", "shape_1", "colour_1", "texture_1")
FREE = -1

# A relation in words -> layout (1 beside, 2 one over the other) and whether the object mentioned first is the left or upper one.
RELATIONS = {
    "to the left of": (1, True),
    "left of": (1, True),
    "to the right of": (1, False),
    "right of": (1, False),
    "above": (2, True),
    "over": (2, True),
    "below": (2, False),
    "under": (2, False),
}


def _any(words: tuple[str, ...]) -> str:
    return "(" + "|".join(words) + ")"


_SENTENCES = tuple(
    re.compile(pattern)
    for pattern in (rf"a {_any(STYLES)} of (.+)", rf"(.+), {_any(STYLES)}", rf"a picture of (.+) in {_any(STYLES)} style")
)
_THING = re.compile(rf"(an?) (?:{_any(SIZES)} )?(?:{_any(TEXTURES)} )?{_any(COLOURS)} {_any(SHAPES)}(?: {_any(TRAILING)})?")
_BETWEEN = re.compile(rf"(.+?) {_any(tuple(RELATIONS))} (.+)")


def parse_caption(text: str) -> list[int]:
    """The nine attributes that a sentence names, in the order of `NAMES`; ValueError if it is not a sentence of the grammar."""
    for wording, pattern in enumerate(_SENTENCES):
        if match := pattern.fullmatch(text):
            what, style = match.groups()[::-1] if wording == 0 else match.groups()
            break
    else:
        raise ValueError(f"no sentence: {text!r}")
    relation = _BETWEEN.fullmatch(what)
    if relation is None:
        shape, colour, texture, size = _parse_thing(what)
        return [STYLES.index(style), 0, shape, colour, texture, size, FREE, FREE, FREE]
    layout, first_is_upper_left = RELATIONS[relation[2]]
    things = [_parse_thing(relation[1]), _parse_thing(relation[3])]
    zero, one = things if first_is_upper_left else things[::-1]
    if (zero[3], one[3]) != (FREE, FREE):
        raise ValueError(f"a pair names no size: {text!r}")
    return [STYLES.index(style), layout, *zero[:3], FREE, *one[:3]]


def _parse_thing(phrase: str) -> tuple[int, int, int, int]:
    match = _THING.fullmatch(phrase)
    if match is None:
        raise ValueError(f"no object: {phrase!r}")
    article, size, texture, colour, shape, trailing = match.groups()
    if (article == "an") != (phrase.split()[1][0] in "aeiou"):
        raise ValueError(f"wrong article: {phrase!r}")
    if texture and trailing:
        raise ValueError(f"texture said twice: {phrase!r}")
    texture_value = TEXTURES.index(texture) if texture else TRAILING.index(trailing) if trailing else FREE
    return SHAPES.index(shape), COLOURS.index(colour), texture_value, SIZES.index(size) if size else FREE


# ---- the reader of pictures ------------------------------------------------------------------------------------------

_PHOTO, _CARTOON, _PAINTING, _NEON = range(4)
_BASE_HUE = np.array([0.0, 31.0, 54.0, 127.0, 185.0, 230.0, 279.0, 331.0])  # of the colours, degrees
_OVERHANG = np.array([0.3, 0.8, 0.1, 0.6])  # how far a segmented mask reaches beyond the true outline, by style, pixels
_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5
_PLANE = np.stack([np.ones_like(_X), _X / SIZE - 0.5, _Y / SIZE - 0.5], axis=-1)
_EDGE = np.minimum.reduce([_X, _Y, SIZE - _X, SIZE - _Y]) < 2.0

Array = np.ndarray


def read_picture(image: Array) -> list[int]:
    """Attributes seen in one picture, uint8 [32, 32, 3], in the order of `NAMES`; `FREE` for what is not there."""
    pixels = image.astype(np.float64) / 255.0
    style, background = _read_style(pixels)
    layout, parts = _separate(_foreground(pixels, style, background))
    seen = []
    for part in parts:
        shape, radius = _read_shape(part, _OVERHANG[style])
        colour = _read_colour(pixels - background if style == _NEON else pixels, part)
        seen.append((shape, colour, _read_texture(pixels, style, part), radius))
    if layout == 0:
        return [style, 0, *seen[0][:3], int(seen[0][3] > 0.465 * SIZE / 2), FREE, FREE, FREE]
    return [style, layout, *seen[0][:3], FREE, *seen[1][:3]]


def _read_style(pixels: Array) -> tuple[int, Array]:
    """Style, and the background as a plane through the pixels of the picture's edge, [32, 32, 3]."""
    points, values = _PLANE[_EDGE], pixels[_EDGE]
    kept = np.ones(len(points), dtype=bool)
    for _ in range(4):  # leave out objects and shadows that reach the edge
        fit, *_rest = np.linalg.lstsq(points[kept], values[kept], rcond=None)
        error = np.abs(points @ fit - values).max(axis=1)
        kept = error <= max(2.0 * np.median(error), 0.01)
    background = _PLANE @ fit
    if background.mean() < 0.3:
        return _NEON, background
    if np.median(error) > 0.012:  # mottled
        return _PAINTING, np.broadcast_to(np.median(values, axis=0), pixels.shape)
    return (_PHOTO if np.abs(fit[1:]).max() > 0.04 else _CARTOON), background


def _foreground(pixels: Array, style: int, background: Array) -> Array:
    """Bool [32, 32]: pixels that neither the background nor, by style, its shadow, mottling or glow explains."""
    if style == _NEON:
        bright = (pixels - background).max(axis=-1)
        # Behind its tubes a body is dim; a hole is as dark as the night.
        return _fill(
            bright > 0.5 * np.quantile(bright, 0.98),
            lambda hole: np.quantile(bright[hole], 0.25) > 0.19 * _rim(bright, hole).max(),
        )
    low, high = ((0.5, 1.04), (0.98, 1.02), (0.82, 1.18))[style]  # how dark and how light the background may look
    length = np.clip((pixels * background).sum(-1) / (background**2).sum(-1), low, high)
    away = np.linalg.norm(pixels - length[..., None] * background, axis=-1)
    mask = away > (0.13, 0.6, 0.13)[style]
    if style == _CARTOON:  # a hole shows the background, mixed at most with its black outline; a pale stripe another colour
        paint = background - 0.07
        mixed = np.clip(((pixels - 0.07) * paint).sum(-1) / (paint**2).sum(-1), 0.0, 1.0)
        foreign = np.linalg.norm(pixels - 0.07 - mixed[..., None] * paint, axis=-1)
        return _fill(mask, lambda hole: foreign[hole].mean() > 0.04)
    return mask


def _fill(mask: Array, is_body: Callable[[Array], bool]) -> Array:
    """The mask with those of its enclosed holes filled that are part of the body."""
    labels, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    labels = labels[1:-1, 1:-1]
    filled = mask.copy()
    outside = labels[0, 0] if not mask[0, 0] else 1
    for label in range(1, count + 1):
        hole = labels == label
        if label != outside and is_body(hole):
            filled |= hole
    return filled


def _rim(values: Array, hole: Array) -> Array:
    """Values of the pixels around a hole."""
    return values[ndimage.binary_dilation(hole) & ~hole]


def _separate(mask: Array) -> tuple[int, list[Array]]:
    """Layout and the masks of its objects, the left or upper one first."""
    labels, count = ndimage.label(ndimage.binary_dilation(mask))
    labels = labels * mask
    areas = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    whole = np.isin(labels, 1 + np.flatnonzero(areas >= max(0.25 * areas.max(initial=0.0), 8.0)))
    if not whole.any():
        return 0, [np.ones_like(mask)]
    # Two objects lie on opposite sides of the middle, so a cut through it loses little and leaves much on both sides.
    spans = [np.ptp(np.flatnonzero(whole.any(axis=axis))) for axis in (0, 1)]  # to the right, downwards
    for layout, axis in ((1, 0), (2, 1)):
        profile = whole.sum(axis=axis)
        thin = profile[12:20].min()
        cut = 12 + int(np.flatnonzero(profile[12:20] == thin).mean())
        first, second = profile[:cut].sum(), profile[cut:].sum()
        if min(first, second) > 0.22 * max(first, second) and thin <= 2 and spans[layout - 1] > max(19, spans[2 - layout] - 3):
            side = (_X if layout == 1 else _Y) < cut
            return layout, [whole & side, whole & ~side]
    return 0, [whole]


def _read_colour(pixels: Array, mask: Array) -> int:
    """The base colour nearest in hue to the most colourful pixels of a mask."""
    chroma = pixels.max(axis=-1) - pixels.min(axis=-1)
    red, green, blue = np.median(pixels[mask & (chroma >= np.quantile(chroma[mask], 0.6))], axis=0)
    hue = np.rad2deg(np.arctan2(np.sqrt(3.0) * (green - blue), 2 * red - green - blue))
    return int(np.abs((hue - _BASE_HUE + 180.0) % 360.0 - 180.0).argmin())


def _read_texture(pixels: Array, style: int, mask: Array) -> int:
    """Plain where the pale colour varies little inside; else striped or dotted by whether it changes in one direction."""
    inside = ndimage.binary_erosion(mask, iterations=(1, 2, 1, 2)[style])
    if inside.sum() < 4:
        return 0
    saturation = (pixels.max(axis=-1) - pixels.min(axis=-1)) / np.maximum(pixels.max(axis=-1), 0.05)
    if saturation[inside].std() < 0.08:
        return 0
    right = inside[:, :-1] & inside[:, 1:]
    down = inside[:-1] & inside[1:]
    across = np.abs(np.diff(saturation, axis=1))[right].sum() / max(right.sum(), 1)
    along = np.abs(np.diff(saturation, axis=0))[down].sum() / max(down.sum(), 1)
    return 1 if across < 0.6 * along else 2


def _read_shape(mask: Array, overhang: float) -> tuple[int, float]:
    """The shape whose mask, at the measured centre and radius and some rotation, overlaps best, and its radius in pixels."""
    distances, kinds, areas, perimeters = _templates()
    # The measured area is that of the outline moved out by the overhang: area r^2 + perimeter r overhang.
    area = mask.sum()
    b = perimeters * overhang / (2 * areas)
    radii = (np.sqrt(b * b + area / areas) - b)[kinds][:, None, None]
    column, row = ((axis - axis[mask].mean()) / radii * (_CELLS / 2 / _REACH) + _CELLS / 2 for axis in (_X, _Y))
    column, row = (index.astype(np.int64).clip(0, _CELLS - 1) for index in (column, row))
    expected = distances[np.arange(len(kinds))[:, None, None], row, column] * radii < overhang
    overlap = (expected & mask).sum(axis=(1, 2)) / (expected | mask).sum(axis=(1, 2))
    best = int(overlap.argmax())
    return int(kinds[best]), float(radii[best, 0, 0])


_CELLS, _REACH = 128, 2.0  # templates cover [-2, 2) radii, about the centroid


@cache
def _templates() -> tuple[Array, Array, Array, Array]:
    """Of every shape at every rotation: distance to the outline in radii, negative inside, [T, 128, 128], and shape [T].

    Then the area and the perimeter of each shape of radius one, [6].
    """
    axis = ((np.arange(_CELLS) + 0.5) / _CELLS * 2.0 - 1.0) * _REACH
    x, y = np.meshgrid(axis, axis)
    cell = 2.0 * _REACH / _CELLS
    distances, kinds, areas, perimeters = [], [], [], []
    for kind in range(len(SHAPES)):
        inside = _inside(kind, x, y)
        middle = y[inside].mean()  # every shape is symmetric about the vertical
        for turn in np.deg2rad(np.linspace(-22.5, 22.5, 9)):
            inside = _inside(kind, np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x + middle)
            distance = (ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)) * cell
            distances.append(distance)
            kinds.append(kind)
        areas.append(inside.sum() * cell**2)
        perimeters.append((np.abs(distance) < 0.05).sum() * cell**2 / 0.1)
    return np.array(distances), np.array(kinds), np.array(areas), np.array(perimeters)


def _inside(kind: int, x: Array, y: Array) -> Array:
    """Whether points lie in a shape of radius one at the origin; y downwards."""
    r = np.hypot(x, y)
    small, large = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    if SHAPES[kind] in ("triangle", "star"):
        # Corners in polar coordinates about the middle: three at 1.12, or ten at 1.08 and 0.46 in turn; even-odd rule.
        corners = 3 if SHAPES[kind] == "triangle" else 10
        turn = np.deg2rad(-90 + 360 / corners * np.arange(corners))
        length = np.full(3, 1.12) if corners == 3 else np.tile([1.08, 0.46], 5)
        xs, ys = length * np.cos(turn), length * np.sin(turn) + (0.18 if corners == 3 else 0.0)
        inside = np.zeros(x.shape, dtype=bool)
        for x0, y0, x1, y1 in zip(xs, ys, np.roll(xs, 1), np.roll(ys, 1), strict=True):
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0 + 1e-12) + x0)
        return inside
    return (r <= 0.92, large <= 0.78, None, None, (r >= 0.45) & (r <= 0.95), (small <= 0.33) & (large <= 0.98))[kind]
