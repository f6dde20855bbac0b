"""Pictures of scenes: 32 x 32 RGB, drawn from signed distances, so edges are smooth and a thousand take about a second.

`render` fills in what a caption leaves open from a key of its own, so that two pictures of one caption differ in place,
size, rotation, hue, light and background, and any picture can be had alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbv2bench.mini.world import ATTRIBUTES, FREE, IMAGE_SIZE, Ints, Scenes, random_uniform

Floats = NDArray[np.floating]  # float32, or float64 where a constant widened it

_PICTURE_STREAM = 3
_FIELDS = 48
# Base colours, in the order of `world.COLOURS`, RGB in [0, 1].
_RGB = np.array(
    [
        (0.86, 0.12, 0.12),
        (0.97, 0.50, 0.06),
        (0.96, 0.88, 0.14),
        (0.14, 0.64, 0.20),
        (0.15, 0.80, 0.86),
        (0.14, 0.26, 0.86),
        (0.50, 0.14, 0.70),
        (0.98, 0.56, 0.76),
    ],
    dtype=np.float32,
)
_HALF = IMAGE_SIZE / 2
_AXIS = ((np.arange(IMAGE_SIZE) + 0.5) / _HALF - 1.0).astype(np.float32)
_X, _Y = np.meshgrid(_AXIS, _AXIS)  # [32, 32]: x to the right, y downwards, both in (-1, 1)


def complete(scenes: Scenes, keys: Ints, seed: int = 0) -> Ints:
    """Attributes of each picture, int64 [N, 9]: what the caption names, and a drawn value where it names nothing.

    An unnamed texture is any texture on a single object and plain in a pair; the size of a pair's objects stays `FREE`,
    as do the attributes of an object that is not there.
    """
    u = random_uniform(seed, _PICTURE_STREAM, keys, _FIELDS)
    attributes = scenes.attributes.copy()
    single = scenes.column("layout") == 0
    unnamed = attributes[:, 4] == FREE
    attributes[unnamed, 4] = np.where(single, (u[:, 0] * 3).astype(np.int64), 0)[unnamed]
    attributes[~single & (attributes[:, 8] == FREE), 8] = 0
    unsized = single & (attributes[:, 5] == FREE)
    attributes[unsized, 5] = (u[:, 1] * 2).astype(np.int64)[unsized]
    return attributes


def render(scenes: Scenes, keys: Ints, seed: int = 0) -> NDArray[np.uint8]:
    """One picture of each scene, uint8 [N, 32, 32, 3]. keys: int64 [N]; another key is another picture of the caption."""
    keys = np.asarray(keys, dtype=np.int64)
    attributes = complete(scenes, keys, seed)
    u = random_uniform(seed, _PICTURE_STREAM, keys, _FIELDS).astype(np.float32)
    out = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for start in range(0, len(scenes), 128):  # small blocks stay in the processor's cache
        rows = slice(start, start + 128)
        canvas = _draw(attributes[rows], u[rows])
        out[rows] = np.floor(np.clip(canvas, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return out


def _draw(attributes: Ints, u: Floats) -> Floats:
    """Canvas [N, 32, 32, 3] in about [0, 1]."""
    column = {name: attributes[:, i] for i, name in enumerate(ATTRIBUTES)}
    style, layout = column["style"], column["layout"]
    waves = _waves(u[:, 2:8])
    canvas = _background(style, u[:, 8:14], waves)
    pair = layout > 0

    # Single objects: size by name, anywhere that keeps them inside. Pairs: middling objects on opposite sides.
    small = column["size"] == 0
    radius = np.where(small, 0.33 + 0.09 * u[:, 14], 0.57 + 0.13 * u[:, 14]).astype(np.float32)
    room = 0.96 - radius
    x, y = room * (2 * u[:, 15] - 1), room * (2 * u[:, 16] - 1)
    along, across = 0.47 + 0.05 * (2 * u[:, 17:19] - 1), 0.28 * (2 * u[:, 19:21] - 1)
    sideways = layout == 1
    radius = np.where(pair, 0.34 + 0.08 * u[:, 14], radius)
    x = np.where(pair, np.where(sideways, -along[:, 0], across[:, 0]), x)
    y = np.where(pair, np.where(sideways, across[:, 0], -along[:, 0]), y)
    light = u[:, 21] * 2 * np.pi
    shape, colour, texture = (column[name] for name in ("shape_0", "colour_0", "texture_0"))
    _paint(canvas, slice(None), _Objects(style, shape, colour, texture, x, y, radius, light, waves, u[:, 24:32]))

    rows = np.flatnonzero(pair)
    if len(rows):
        radius = 0.34 + 0.08 * u[rows, 22]
        x = np.where(sideways[rows], along[rows, 1], across[rows, 1])
        y = np.where(sideways[rows], across[rows, 1], along[rows, 1])
        shape, colour, texture = (column[name][rows] for name in ("shape_1", "colour_1", "texture_1"))
        _paint(
            canvas, rows, _Objects(style[rows], shape, colour, texture, x, y, radius, light[rows], waves[rows], u[rows, 32:40])
        )
    return canvas


def _waves(u: Floats) -> Floats:
    """A smooth random field in [-1, 1], [N, 32, 32]: the mottling of the painting style."""
    angle, phase = u[:, 0:2] * 2 * np.pi, u[:, 2:4] * 2 * np.pi
    frequency = 4.0 + 4.0 * u[:, 4:6]
    field = np.zeros((len(u), IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    for k in range(2):
        a, b = _at(np.cos(angle[:, k]) * frequency[:, k]), _at(np.sin(angle[:, k]) * frequency[:, k])
        field += 0.5 * np.sin(a * _X + b * _Y + _at(phase[:, k]))
    return field


def _background(style: Ints, u: Floats, waves: Floats) -> Floats:
    """[N, 32, 32, 3]: a lit wall, flat pastel, a mottled canvas or the night, by style."""
    hue = u[:, 0, None] * 2 * np.pi + np.array([0.0, 2.1, 4.2], dtype=np.float32)
    tint = np.cos(hue).astype(np.float32)  # [N, 3]
    level = u[:, 1, None]
    base = np.select(
        [style[:, None] == s for s in range(4)],
        [
            0.50 + 0.22 * level + 0.05 * tint,
            0.86 + 0.06 * level + 0.08 * tint,
            0.62 + 0.12 * level + 0.10 * tint,
            0.06 + 0.04 * level + 0.04 * tint,
        ],
    ).astype(np.float32)
    slope = np.select([style == 0, style == 2], [0.20 + 0.12 * u[:, 2], np.zeros(len(u))], 0.0).astype(np.float32)
    shade = 1.0 - _at(slope) * (_Y + 0.3 * _at(2 * u[:, 3] - 1) * _X)
    shade += 0.13 * waves * _at((style == 2).astype(np.float32))
    lit: Floats = base[:, None, None, :] * shade[..., None]
    return lit


@dataclass(frozen=True)
class _Objects:
    """One object of each of N pictures. Arrays are [N]; waves is [N, 32, 32], the painting's mottling; u is [N, 8]."""

    style: Ints
    shape: Ints
    colour: Ints
    texture: Ints
    x: Floats
    y: Floats
    radius: Floats
    light: Floats
    waves: Floats
    u: Floats


def _paint(canvas: Floats, rows: slice | NDArray[np.intp], objects: _Objects) -> None:
    """Draw one object over rows of the canvas, in place."""
    style, radius, waves, u = objects.style, objects.radius, objects.waves, objects.u
    turn = (2 * u[:, 0] - 1) * np.float32(np.pi / 8)
    dx, dy = _X - _at(objects.x), _Y - _at(objects.y)
    cos, sin = _at(np.cos(turn)), _at(np.sin(turn))
    px, py = (cos * dx + sin * dy) / _at(radius), (cos * dy - sin * dx) / _at(radius)
    distance = _signed_distance(objects.shape, px, py) * _at(radius * _HALF)  # in pixels, negative inside
    painting = _at((style == 2).astype(np.float32))
    distance += painting * 0.5 * waves
    body = np.clip(0.5 - distance, 0.0, 1.0)

    rgb = _RGB[objects.colour] + 0.09 * (u[:, 1:4] - 0.5)
    pale = 0.2 * rgb + 0.8
    scaled = px * _at(radius * _HALF), py * _at(radius * _HALF)
    pattern = _pattern(objects.texture, *scaled, radius, u[:, 4])[..., None]
    ink = rgb[:, None, None, :] * (1 - pattern) + pale[:, None, None, :] * pattern

    # Light: a photo falls off away from the lamp; a painting is mottled; a neon body is dim behind its bright tube.
    toward = px * _at(np.cos(objects.light)) + py * _at(np.sin(objects.light))
    shade = np.ones_like(px)
    photo, neon = _at((style == 0).astype(np.float32)), _at((style == 3).astype(np.float32))
    shade += photo * (0.24 * np.clip(toward, -1.0, 1.0)) + painting * 0.16 * waves - neon * 0.5
    ink = ink * shade[..., None]

    under = canvas[rows]
    shadow = photo * 0.45 * np.clip(0.5 - (distance - 1.2) / 3.0, 0.0, 1.0)
    under = under * (1 - shadow[..., None])
    out = under * (1 - body[..., None]) + ink * body[..., None]
    outline = _at((style == 1).astype(np.float32)) * np.clip(1.25 - np.abs(distance), 0.0, 1.0)
    out = out * (1 - outline[..., None]) + 0.07 * outline[..., None]
    tube = neon * np.clip(1.3 - np.abs(distance + 0.4), 0.0, 1.0)
    glow = neon * 0.45 * np.exp(-np.maximum(distance, 0.0) / 1.6) * (1 - body)
    bright = (0.8 * rgb + 0.2)[:, None, None, :]
    out = out * (1 - tube[..., None]) + bright * tube[..., None] + glow[..., None] * bright
    canvas[rows] = out


def _pattern(texture: Ints, px: Floats, py: Floats, radius: Floats, phase: Floats) -> Floats:
    """How much of the pale colour shows, in [0, 1], [N, 32, 32]: none, bars, or dots. px, py in pixels of the object's frame."""
    period = np.where(radius < 0.45, 5.0, 6.4).astype(np.float32)
    k = _at(2 * np.pi / period)
    shift = _at(phase * 2 * np.pi)
    out = np.zeros_like(px)
    bars, dots = np.flatnonzero(texture == 1), np.flatnonzero(texture == 2)
    out[bars] = np.clip(0.5 + 1.4 * np.cos(k[bars] * py[bars] + shift[bars]), 0.0, 1.0)
    waves = np.cos(k[dots] * px[dots] + shift[dots]) + np.cos(k[dots] * py[dots] + shift[dots])
    out[dots] = np.clip(1.4 * waves - 0.5, 0.0, 1.0)
    return out


def _signed_distance(shape: Ints, px: Floats, py: Floats) -> Floats:
    """Distance to the outline in units of the radius, negative inside, for the shapes in the order of `world.SHAPES`."""
    out = np.empty_like(px)
    for kind, distance in enumerate(_DISTANCES):
        rows = np.flatnonzero(shape == kind)
        if len(rows):
            out[rows] = distance(px[rows], py[rows])
    return out


def _circle(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.sqrt(x * x + y * y) - np.float32(0.92)
    return distance


def _square(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _triangle(x: Floats, y: Floats) -> Floats:
    y = y - np.float32(0.18)
    side = np.float32(0.8660254) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(y, side) - np.float32(0.56)


def _star(x: Floats, y: Floats) -> Floats:
    """Five points of radius 1.08, inner corners at 0.46: distance to the nearest of its ten edge lines, after folding."""
    wedge = np.float32(2 * np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(x, -y) + wedge / 2, wedge) - wedge / 2)
    length = np.sqrt(x * x + y * y)
    outer, inner = np.array([1.08, 0.0]), 0.46 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    edge = (inner - outer) / np.linalg.norm(inner - outer)
    along, across = length * np.cos(angle) - np.float32(outer[0]), length * np.sin(angle)
    distance: Floats = (along * np.float32(edge[1]) - across * np.float32(edge[0])).astype(np.float32)
    return distance


def _ring(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.abs(np.sqrt(x * x + y * y) - np.float32(0.70)) - np.float32(0.25)
    return distance


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    bar, beam = np.float32(0.33), np.float32(0.98)
    distance: Floats = np.minimum(np.maximum(x - beam, y - bar), np.maximum(x - bar, y - beam))
    return distance


_DISTANCES = (_circle, _square, _triangle, _star, _ring, _cross)


def _at(values: NDArray) -> Floats:  # type: ignore[type-arg]
    """[N] -> [N, 1, 1], float32."""
    return np.asarray(values, dtype=np.float32)[:, None, None]
