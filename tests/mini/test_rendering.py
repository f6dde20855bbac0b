"""Pictures of the mini world: deterministic, fast, varied, and true to their captions as read back from the pixels."""

from __future__ import annotations

import base64
import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from sbv2bench.mini.rendering import complete, render
from sbv2bench.mini.world import ATTRIBUTES, FREE, SHAPES, STYLES, Scenes, captions, hard_negatives, scenes

_spec = importlib.util.spec_from_file_location("mini_rendering_oracle", Path(__file__).with_name("oracle.py"))
assert _spec and _spec.loader
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

NAMES = list(ATTRIBUTES)
# Means of the four quarters of each channel of the first 64 training pictures, seed 0, as bytes in base64. Weights are
# trained on these pictures: never edit this without training everything again.
GOLDEN = (
    "yJ6sxbGtj4B+qH2OrpW+r4+5oqPHsZG8nYG+pZfBnHm8s5S+no66m5C7kY+4d5/Ck5fNw7fV0cnpxrrZmqG0p6S3inmJhWmOuambyLKGrI2fxa6C+t/a+t/a"
    "58nE1aWgv+HRkKyztq+1t9fJsLOSs5V0uq+YrbSLvoCespC5toyzspC5oZuFo5N/d3pod3hnDyISGTstECMTFjMkvrXTvLLRnZCukoWjw72cwr+gs8ezssq3"
    "Jw4YIRgkXiAoLEFPxJF5v6+PwLGT0Kp9OjYWIykSQTkWJisT17K94L7InK643sLKnaurmYi0jJd1kaKNWUskalwpQjMdUkQhqpKdtHd5iHR9iHF5u4+duY+c"
    "ypSpvY+e59bGu8CirrOXzMewfyQwMBsoLBooExUiqbTExeLiv7jCwdjZnaHMla7AmXzKmqnH6crQ0bih6cnS2sCtrrmGn8KWs7R9g7t+29K/0sW84dvD2M6+"
    "FyUOHUgfUVwiFSwSSiZWOh0+MhgyLRUrqKyaqJ2mpq+Tqa2cWDROHiAzQig/Kl1t1bvY1bvYypywypuv1rCw1rCw3byV1rCth56UgHaSXHtnUH9ctJm1qZyz"
    "inGFgHSEpL+doMCavKynrcCjyZ+T2L+v28m70ry00HqJvpCkmlpkiGVzNBtBTChgJhMwOB1GMxYjWCYyTiAsey85JzROKDVTHyw+IS9Dy+now9fYwtfYw8rP"
    "wKmJwqmW0LmDvqWStZOPt4t4cmyZgXSOe36pbXKhXV9/UFR2mauUoraecX9uc2p6cYWaYnerYlZ6Zmp78tnQ8tnQvLOjvLOjPSMtcEhaMBkiUjI/xKy4z762"
    "moaRnpNwsrafhK+gjpB3n55Yx3iTy5zFxZG1zJvFJTEqMyMwK0VCPShB6MnO8tHWuavH4MPKioPNzbTZuqbV4MPhMh4nOyE2OCAxRCNFKjViJC1VKDNiIyxV"
    "uqSGyZ2CvrCOwrSTudrVpKnFj7ykqLDIIiYwGw4XJTI9HA8YGjoxIEQ9LWRfM3Ft"
)


def _quarters(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 32, 32, 3] -> means [N, 2, 2, 3], 0 to 255."""
    return images.reshape(len(images), 2, 16, 2, 16, 3).mean(axis=(2, 4))


def test_pictures_are_those_that_the_weights_were_trained_on() -> None:
    images = render(scenes("training", range(64)), np.arange(64))
    stored = np.frombuffer(base64.b64decode("".join(GOLDEN)), dtype=np.uint8).reshape(64, 2, 2, 3)
    difference = np.abs(_quarters(images) - stored) / 255
    assert difference.mean() < 0.01
    assert difference.max() < 0.02


def test_a_picture_depends_on_its_scene_and_key_alone() -> None:
    drawn, keys = scenes("choosing", range(300)), np.arange(300) * 11
    images = render(drawn, keys)
    assert images.shape == (300, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(render(drawn, keys), images)
    order = np.random.default_rng(0).permutation(300)
    assert np.array_equal(render(drawn[order], keys[order]), images[order])
    assert np.array_equal(render(drawn[5::9], keys[5::9]), images[5::9])
    for index in (0, 127, 128, 299):
        assert np.array_equal(render(drawn[[index]], keys[[index]])[0], images[index])
    assert render(drawn[:0], keys[:0]).shape == (0, 32, 32, 3)
    extreme = np.array([-1, 2**62, 0])
    assert np.array_equal(render(drawn[:3], extreme, seed=-4), render(drawn[:3], extreme, seed=2**64 - 4))


def test_two_pictures_of_one_caption_differ() -> None:
    drawn, keys = scenes("training", range(400)), np.arange(400)
    images = render(drawn, keys).astype(np.float64) / 255
    for other in (render(drawn, keys + 400), render(drawn, keys, seed=1)):
        difference = np.abs(other / 255 - images).mean(axis=(1, 2, 3))
        assert difference.min() > 0.02  # 0.05 measured
        assert np.median(difference) > 0.10  # 0.14 measured
    # Place, hue and background vary within one caption: a thousand pictures of "a photo of a large plain red circle".
    row = np.array([0, 0, 0, 0, 0, 1, FREE, FREE, FREE])
    same = render(_fixed(np.tile(row, (1_000, 1))), np.arange(1_000)) / 255.0
    red = (same[..., 0] - same[..., 1:].max(axis=-1)) > 0.25
    area = red.sum(axis=(1, 2))
    x, y = ((red * axis).sum(axis=(1, 2)) / area for axis in np.mgrid[0:32, 0:32][::-1])
    assert x.std() > 2.5  # pixels; 3.0 measured
    assert y.std() > 2.5
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.15
    assert np.sqrt(area).std() / np.sqrt(area).mean() > 0.04
    hue = (same * red[..., None]).sum(axis=(1, 2)) / area[:, None]
    assert hue.std(axis=0).min() > 0.015
    assert same[:, 0].mean(axis=1).std(axis=0).min() > 0.04  # the upper edge is mostly background


def test_over_a_thousand_pictures_a_second_on_one_core() -> None:
    seconds = []
    for start in (0, 10_000, 20_000):
        began = time.process_time()
        drawn = scenes("training", range(start, start + 1_000))
        captions(drawn)
        render(drawn, np.arange(start, start + 1_000))
        seconds.append(time.process_time() - began)
    assert 1_000 / min(seconds) > 1_000  # about 6,000 measured beside other work


def test_complete_keeps_what_is_named_and_draws_the_rest() -> None:
    drawn, keys = scenes("training", range(4_000)), np.arange(4_000)
    before = drawn.attributes.copy()
    shown = complete(drawn, keys)
    assert np.array_equal(drawn.attributes, before)
    named = before != FREE
    assert np.array_equal(shown[named], before[named])
    single = before[:, 1] == 0
    for column, count in ((4, 3), (5, 2)):
        filled = shown[single & ~named[:, column], column]
        assert np.abs(np.bincount(filled, minlength=count) * count / len(filled) - 1).max() < 0.12
    assert (shown[single][:, 6:] == FREE).all()
    assert (shown[~single, 5] == FREE).all()
    for column in (4, 8):
        assert (shown[~single & ~named[:, column], column] == 0).all()


def _fixed(attributes: np.ndarray) -> Scenes:
    zeros = np.zeros(len(attributes), dtype=np.int64)
    return Scenes(attributes, zeros.astype(bool), zeros, zeros)


@pytest.mark.parametrize("size", (0, 1))
def test_a_texture_can_be_seen(size: int) -> None:
    # Pixels that visibly change (by 25 of 255) between plain, striped and dotted, all else equal: the worst tenth of pictures.
    unseen = set()
    for style, shape in np.ndindex(4, 6):
        pictures = []
        for texture in range(3):
            rows = [[style, 0, shape, key % 8, texture, size, FREE, FREE, FREE] for key in range(80)]
            pictures.append(render(_fixed(np.array(rows)), np.arange(80)).astype(np.int64))
        for a, b in ((0, 1), (0, 2), (1, 2)):
            changed = (np.abs(pictures[a] - pictures[b]).max(axis=-1) > 25).sum(axis=(1, 2))
            if np.quantile(changed, 0.1) < 3:
                unseen.add((STYLES[style], SHAPES[shape]))
    # A known limit: the tube of a small neon shape with narrow parts covers its body, and with it the texture.
    assert unseen == (set() if size else {("neon", shape) for shape in ("star", "ring", "cross")})


@pytest.fixture(scope="module")
def reading() -> dict[str, np.ndarray]:
    """What 1,200 captions say, what is in their pictures and what the oracle sees there, [1200, 9]; negatives [5, 1200, 9]."""
    drawn, keys = scenes("reporting", range(1_200)), np.arange(1_200)
    false = [text for turn in range(5) for text in captions(hard_negatives(drawn, keys + 1_200 * turn))]
    return {
        "said": np.array([oracle.parse_caption(text) for text in captions(drawn)]),
        "false": np.array([oracle.parse_caption(text) for text in false]).reshape(5, 1_200, 9),
        "shown": complete(drawn, keys),
        "seen": np.array([oracle.read_picture(image) for image in render(drawn, keys)]),
    }


# Floors, about a percent under the lower of what was measured on these pictures and on 1,500 others.
FLOORS = {
    "style": 0.99,  # 0.998 and 0.999
    "layout": 0.99,  # 0.998 and 0.996
    "shape_0": 0.975,  # 0.986 and 0.985
    "colour_0": 0.985,  # 0.998 and 0.995
    "texture_0": 0.94,  # 0.954 and 0.962
    "size": 0.985,  # 1.000 and 0.998
    "shape_1": 0.965,  # 0.983 and 0.976
    "colour_1": 0.97,  # 0.994 and 0.978
    "texture_1": 0.915,  # 0.986 and 0.926
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.ci
def test_pictures_show_what_their_captions_say(name: str, reading: dict[str, np.ndarray]) -> None:
    column = NAMES.index(name)
    said, seen = reading["said"][:, column], reading["seen"][:, column]
    named = said != FREE
    agreement = (said == seen)[named].mean()
    assert agreement >= FLOORS[name], (agreement, named.sum())
    # Against the caption of another picture, chance.
    other = np.roll(said, 1)
    chance = sum((said[named] == value).mean() * (seen[named] == value).mean() for value in range(len(ATTRIBUTES[name])))
    by_chance = (other == seen)[named & (other != FREE)]
    assert abs(by_chance.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / len(by_chance)) + 0.01


@pytest.mark.ci
def test_every_style_shape_and_colour_is_read(reading: dict[str, np.ndarray]) -> None:
    shown, seen = reading["shown"], reading["seen"]
    for style, floors in ((0, (0.99, 0.99, 0.99)), (1, (0.95, 0.98, 0.98))):
        rows = (shown[:, 0] == style) & (shown[:, 4] == 0)
        for column, floor in zip((2, 3, 1), floors, strict=True):
            assert (shown == seen)[rows, column].mean() >= floor, (STYLES[style], NAMES[column])
    # In every style, every shape and every colour is mostly read for what it is.
    for column in (2, 3):
        for style in range(4):
            for value in range(len(ATTRIBUTES[NAMES[column]])):
                rows = (shown[:, 0] == style) & (shown[:, column] == value)
                assert (seen[rows, column] == value).mean() > 0.85, (STYLES[style], NAMES[column], value, rows.sum())


def test_what_a_caption_leaves_open_is_seen_too(reading: dict[str, np.ndarray]) -> None:
    for name in ("texture_0", "texture_1", "size"):
        column = NAMES.index(name)
        free = (reading["said"][:, column] == FREE) & (reading["shown"][:, column] != FREE)
        assert (reading["shown"] == reading["seen"])[free, column].mean() >= FLOORS[name] - 0.02, name


def test_hard_negatives_disagree_with_the_picture(reading: dict[str, np.ndarray]) -> None:
    said, false, seen = reading["said"], reading["false"], reading["seen"]
    assert ((said == FREE) | (said == seen)).all(axis=1).mean() >= 0.93  # 0.953 and 0.948 measured
    assert ((false == FREE) | (false == seen)).all(axis=2).mean() <= 0.02  # 0.004 and 0.003 measured
    single = (said != false).sum(axis=2) == 1
    for column, name in enumerate(NAMES):
        rows = (said != false)[..., column] & single
        assert rows.sum() >= 40, name
        # Where the caption is made false, it agrees with the picture only as often as the oracle errs towards that value.
        limit = 0.06 if name.startswith("texture") else 0.02
        assert (false == seen)[rows, column].mean() <= limit, name
    turned_or_swapped = (said != false)[..., 1] | ~single
    whole = ((false == FREE) | (false == seen)).all(axis=2)
    assert whole[turned_or_swapped].mean() <= 0.02
