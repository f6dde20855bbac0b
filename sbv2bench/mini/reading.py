"""Sentences of the world back to what they say: the inverse of `world.captions`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from sbv2bench.errors import InputError
from sbv2bench.mini.world import COLOURS, FREE, SHAPES, SIZES, STYLES, TEXTURES, Scenes

_STYLE = "|".join(STYLES)
_SENTENCES = (  # in the order of a scene's `wording`
    re.compile(rf"a (?P<style>{_STYLE}) of (?P<what>.+)"),
    re.compile(rf"(?P<what>.+), (?P<style>{_STYLE})"),
    re.compile(rf"a picture of (?P<what>.+) in (?P<style>{_STYLE}) style"),
)
_RELATIONS = {  # words: layout, whether the second object (right or lower) is mentioned first, phrasing
    "left of": (1, False, 0),
    "to the left of": (1, False, 1),
    "right of": (1, True, 0),
    "to the right of": (1, True, 1),
    "above": (2, False, 0),
    "over": (2, False, 1),
    "below": (2, True, 0),
    "under": (2, True, 1),
}
_RELATION = re.compile(rf"(?P<first>.+?) (?P<relation>{'|'.join(sorted(_RELATIONS, reverse=True))}) (?P<second>.+)")
_OBJECT = re.compile(
    rf"an? (?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<texture>{'|'.join(TEXTURES)}) )?"
    rf"(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})(?P<after> without pattern| with stripes| with dots)?"
)
_AFTER = (" without pattern", " with stripes", " with dots")


def read(captions: Sequence[str]) -> Scenes:
    """What the captions say. Raises InputError for a sentence that is not of the world's language."""
    rows = [_read(caption) for caption in captions]
    attributes = np.array([row[0] for row in rows], dtype=np.int64).reshape(len(rows), 9)
    last, wording, phrasing = (np.array([row[i] for row in rows]) for i in (1, 2, 3))
    return Scenes(attributes, last.astype(bool), wording.astype(np.int64), phrasing.astype(np.int64))


def _read(caption: str) -> tuple[list[int], bool, int, int]:
    matches = [(wording, match) for wording, sentence in enumerate(_SENTENCES) if (match := sentence.fullmatch(caption))]
    if len(matches) != 1:
        raise _not_understood(caption)
    wording, match = matches[0]
    style, what = STYLES.index(match["style"]), match["what"]
    relation = _RELATION.fullmatch(what)
    if relation is None:
        shape, colour, texture, size, after = _read_object(what, caption)
        return [style, 0, shape, colour, texture, size, FREE, FREE, FREE], False, wording, int(after)
    layout, mentioned_last, phrasing = _RELATIONS[relation["relation"]]
    objects = [_read_object(relation[name], caption)[:3] for name in ("first", "second")]
    if mentioned_last:
        objects.reverse()
    return [style, layout, *objects[0], FREE, *objects[1]], mentioned_last, wording, phrasing


def _read_object(phrase: str, caption: str) -> tuple[int, int, int, int, bool]:
    match = _OBJECT.fullmatch(phrase)
    if match is None:
        raise _not_understood(caption)
    texture = TEXTURES.index(match["texture"]) if match["texture"] else FREE
    if match["after"]:
        texture = _AFTER.index(match["after"])
    size = SIZES.index(match["size"]) if match["size"] else FREE
    return SHAPES.index(match["shape"]), COLOURS.index(match["colour"]), texture, size, bool(match["after"])


def _not_understood(caption: str) -> InputError:
    return InputError(f"caption {caption!r}: not a sentence of the mini world, such as 'a photo of a small striped red circle'")
