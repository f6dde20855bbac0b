"""Sentences of the world are read back to what they say, and nothing else is understood."""

from __future__ import annotations

import numpy as np
import pytest

from sbv2bench.errors import InputError
from sbv2bench.mini import reading, world


@pytest.mark.parametrize("split", world.SPLITS)
def test_reading_inverts_captioning(split: str) -> None:
    scenes = world.scenes(split, range(3000), seed=5)
    read = reading.read(world.captions(scenes))
    assert np.array_equal(read.attributes, scenes.attributes)
    assert np.array_equal(read.mentioned_last, scenes.mentioned_last)
    assert world.captions(read) == world.captions(scenes)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "a photo of",
        "a photo of a red dog",
        "a photo of a red circle near a blue star",
        "a sketch of a red circle",
        "a photo of a red red circle",
    ],
)
def test_other_sentences_are_refused(sentence: str) -> None:
    with pytest.raises(InputError, match="mini world"):
        reading.read([sentence])
    reading.read(["a photo of a red circle"])


def test_a_hand_written_sentence() -> None:
    (row,) = reading.read(["a picture of an orange ring to the right of a dotted pink cross in neon style"]).attributes
    named = {
        name: world.ATTRIBUTES[name][value] for name, value in zip(world.ATTRIBUTES, row, strict=True) if value != world.FREE
    }
    assert named == {
        "style": "neon",
        "layout": "horizontal",
        "shape_0": "cross",
        "colour_0": "pink",
        "texture_0": "dotted",
        "shape_1": "ring",
        "colour_1": "orange",
    }
