"""The captioned world: what is in picture `index`, and the caption that says so.

A *scene* is what a caption names: a style, one object or two in a relation, their shapes, colours, textures and size.
Everything a caption leaves open (position, rotation, hue, light, background, unnamed texture or size) is drawn when the
scene is rendered (`sbv2bench.mini.rendering`), so one caption has many true pictures.

Every random choice is a hash of (seed, stream, index, field): any index can be had alone, in any order, on any platform.
Captions fall into the splits `training`, `choosing` and `reporting` by a hash of what they say and how they say it, so
no caption text is in two splits, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 32
STYLES = ("photo", "cartoon", "painting", "neon")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
LAYOUTS = ("single", "horizontal", "vertical")
FREE = -1  # an attribute that the caption does not name (or an object that is not there)

# Name of each attribute that a caption can name -> its values. Objects are numbered by place: 0 is the only, the left
# or the upper one; 1 is the right or the lower one. The caption may mention them in either order.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "style": STYLES,
    "layout": LAYOUTS,
    "shape_0": SHAPES,
    "colour_0": COLOURS,
    "texture_0": TEXTURES,
    "size": SIZES,
    "shape_1": SHAPES,
    "colour_1": COLOURS,
    "texture_1": TEXTURES,
}
_COUNTS = np.array([len(values) for values in ATTRIBUTES.values()])
_COLUMN = {name: column for column, name in enumerate(ATTRIBUTES)}

SPLITS = ("training", "choosing", "reporting")
_SPLIT_EDGES = np.array([0.8, 0.9])  # 80 % of all captions are for training, 10 % for choosing, 10 % for reporting

PAIR_SHARE = 0.3
_WORDINGS = 3  # ways to say the style
_PHRASINGS = 2  # ways to say an object's texture, or a relation
_SCENE_STREAM, _NEGATIVE_STREAM = 1, 2

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scenes:
    """What N captions say.

    attributes: int64 [N, 9], a column for each name in `ATTRIBUTES`; `FREE` where the caption names nothing.
    mentioned_last: bool [N], the caption mentions object 1 first ("B to the right of A").
    wording, phrasing: int64 [N], which of the equivalent sentences is used.
    """

    attributes: Ints
    mentioned_last: NDArray[np.bool_]
    wording: Ints
    phrasing: Ints

    def __len__(self) -> int:
        return len(self.attributes)

    def __getitem__(self, rows: Ints | NDArray[np.bool_] | slice) -> Scenes:
        """Scenes at an index array, mask or slice."""
        return Scenes(self.attributes[rows], self.mentioned_last[rows], self.wording[rows], self.phrasing[rows])

    def column(self, name: str) -> Ints:
        """Values of one attribute, int64 [N]."""
        return self.attributes[:, _COLUMN[name]]


def random_uniform(seed: int, stream: int, indices: Ints, fields: int) -> NDArray[np.float64]:
    """Uniforms in [0, 1), float64 [N, fields]: splitmix64 of (seed, stream, index, field), the same on every platform."""
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.uint64(int(seed) % 2**64)) + np.uint64(stream))
        rows = _mix(key ^ _mix(np.asarray(indices).astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)))
        cells = _mix(rows[:, None] + np.arange(1, fields + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    uniforms: NDArray[np.float64] = (cells >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniforms


def _mix(x: NDArray[np.uint64] | np.uint64) -> Any:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014; constants of the public-domain reference)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def scenes(split: str, indices: Iterable[int], seed: int = 0) -> Scenes:
    """The scenes of captions `indices` (any non-negative ints below 2**56) of a split. Raises ValueError on an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    wanted = SPLITS.index(split)
    index = np.fromiter(indices, dtype=np.int64)
    stream = _SCENE_STREAM + 16 * wanted
    drawn = _draw(seed, stream, index, 0)
    # Rejection: a caption that belongs to another split is drawn again with the next attempt number.
    attempt = 0
    left = np.flatnonzero(_split_of(drawn) != wanted)
    while len(left):
        attempt += 1
        again = _draw(seed, stream, index[left], attempt)
        for field in ("attributes", "mentioned_last", "wording", "phrasing"):
            getattr(drawn, field)[left] = getattr(again, field)
        left = left[_split_of(again) != wanted]
    return drawn


def _draw(seed: int, stream: int, index: Ints, attempt: int) -> Scenes:
    u = random_uniform(seed, stream + 1024 * attempt, index, 18)
    attributes = (u[:, :9] * _COUNTS).astype(np.int64)
    pair = u[:, 9] < PAIR_SHARE
    attributes[:, 1] = np.where(pair, 1 + (u[:, 10] < 0.5), 0)
    # A pair keeps its sentence short: no sizes, and a texture in a quarter of its objects. A single object has its
    # texture named in 70 % and its size in half of the captions.
    attributes[:, 4][u[:, 11] >= np.where(pair, 0.25, 0.7)] = FREE
    attributes[:, 5][pair | (u[:, 12] >= 0.5)] = FREE
    attributes[:, 8][u[:, 13] >= 0.25] = FREE
    attributes[:, 6:][~pair] = FREE
    return Scenes(
        attributes,
        pair & (u[:, 14] < 0.5),
        (u[:, 15] * _WORDINGS).astype(np.int64),
        (u[:, 16] * _PHRASINGS).astype(np.int64),
    )


def _split_of(drawn: Scenes) -> Ints:
    """The split that each caption belongs to, from what it says and how: int64 [N]."""
    # A phrasing that does not show in the sentence must not change the split of its text.
    shown = np.where((drawn.column("layout") == 0) & (drawn.column("texture_0") == FREE), 0, drawn.phrasing)
    cells = np.column_stack([drawn.attributes + 1, drawn.mentioned_last, drawn.wording, shown]).astype(np.uint64)
    key = np.zeros(len(drawn), dtype=np.uint64)
    for column in cells.T:
        key = _mix(key ^ column)
    share = (key >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(_SPLIT_EDGES, share, side="right")


def captions(drawn: Scenes) -> list[str]:
    """The sentence of each scene."""
    return [_caption(*row) for row in zip(drawn.attributes, drawn.mentioned_last, drawn.wording, drawn.phrasing, strict=True)]


def _caption(attributes: Ints, mentioned_last: bool, wording: int, phrasing: int) -> str:
    style, layout, shape_0, colour_0, texture_0, size, shape_1, colour_1, texture_1 = (int(value) for value in attributes)
    if layout == 0:
        what = _object_phrase(shape_0, colour_0, texture_0, size, trailing_texture=phrasing == 1)
    else:
        first = _object_phrase(shape_0, colour_0, texture_0, FREE)
        second = _object_phrase(shape_1, colour_1, texture_1, FREE)
        if mentioned_last:
            first, second = second, first
            relation = (("right of", "to the right of"), ("below", "under"))[layout - 1][phrasing]
        else:
            relation = (("left of", "to the left of"), ("above", "over"))[layout - 1][phrasing]
        what = f"{first} {relation} {second}"
    name = STYLES[style]
    return (f"a {name} of {what}", f"{what}, {name}", f"a picture of {what} in {name} style")[wording]


def _object_phrase(shape: int, colour: int, texture: int, size: int, trailing_texture: bool = False) -> str:
    words = [] if size == FREE else [SIZES[size]]
    after = ""
    if texture != FREE:
        if trailing_texture:
            after = (" without pattern", " with stripes", " with dots")[texture]
        else:
            words.append(TEXTURES[texture])
    words += [COLOURS[colour], SHAPES[shape]]
    article = "an" if words[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(words)}{after}"


def hard_negatives(drawn: Scenes, keys: Ints, seed: int = 0) -> Scenes:
    """The same sentences with one named attribute changed to a wrong value, so the caption is false of the picture.

    keys: int64 [N], one random key for each. The layout is never changed between one and two objects; a changed layout
    or relation is one that contradicts the picture.
    """
    u = random_uniform(seed, _NEGATIVE_STREAM, keys, 11)
    named = drawn.attributes != FREE
    # A single object's layout cannot be falsified without another sentence; colour follows easily, shape does not, so
    # shapes, textures and relations get more weight than colours and styles.
    weight = np.where(named, np.array([0.6, 1.5, 2.0, 1.0, 1.5, 1.5, 2.0, 1.0, 1.5]), 0.0)
    weight[drawn.column("layout") == 0, 1] = 0.0
    order = np.where(weight > 0, u[:, :9] ** (1.0 / np.maximum(weight, 1e-9)), -1.0)  # Efraimidis-Spirakis: weighted choice
    chosen = order.argmax(axis=1)
    rows = np.arange(len(drawn))
    attributes, mentioned_last = drawn.attributes.copy(), drawn.mentioned_last.copy()
    step = 1 + (u[:, 9] * (_COUNTS[chosen] - 1)).astype(np.int64)
    attributes[rows, chosen] = (attributes[rows, chosen] + step) % _COUNTS[chosen]
    # A relation is made false by swapping the two objects' places (half the time) or by turning it by 90 degrees.
    relation = chosen == _COLUMN["layout"]
    attributes[relation] = drawn.attributes[relation]
    objects = drawn.attributes[:, [2, 3, 4]], drawn.attributes[:, [6, 7, 8]]
    same = (objects[0][:, :2] == objects[1][:, :2]).all(axis=1)
    turn = relation & ((u[:, 10] < 0.5) | same)
    attributes[turn, 1] = 3 - attributes[turn, 1]
    swap = relation & ~turn
    attributes[swap, 2:5], attributes[swap, 6:9] = np.where([[True, True, True]], objects[1], 0)[swap], objects[0][swap]
    attributes[swap, 5] = FREE
    return Scenes(attributes, mentioned_last, drawn.wording, drawn.phrasing)
