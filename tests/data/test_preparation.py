"""Image preparation: vectors computed apart, and our one pass against the released evaluation's own steps."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from released_preparation import released_steps

from sbv2bench.data.preparation import SIDE, crop_box, prepare, prepare_image

# width, height -> left, top, side; first 16 hex digits of the prepared bytes' SHA-256, mean, pixels [0,0] and [128,128]
VECTORS = [
    (640, 480, (80, 0, 480), "5d4f7f6ffa828eb9", 127.488449, (64, 114, 162), (125, 123, 118)),
    (640, 427, (106, 0, 427), "666b51325951270f", 127.488007, (134, 37, 87), (118, 64, 90)),
    (640, 425, (108, 0, 425), "29dd406499991213", 127.489629, (157, 51, 100), (103, 89, 104)),
    (425, 640, (0, 108, 425), "c03ed6d1a485e3c4", 127.533168, (138, 200, 210), (96, 158, 194)),
    (512, 512, (0, 0, 512), "a5e6f9a4ba2a50dc", 127.468836, (10, 60, 110), (128, 146, 135)),
    (500, 375, (62, 0, 375), "45d73a4dbab61b02", 127.510417, (184, 223, 30), (133, 40, 70)),
]


def synthetic(width: int, height: int) -> np.ndarray:
    y, x, channel = np.mgrid[:height, :width, :3]
    return ((7 * x + 13 * y + 50 * channel + x * y // 5) % 256).astype(np.uint8)


@pytest.mark.parametrize(("width", "height", "box", "sha256", "mean", "corner", "middle"), VECTORS)
def test_vectors(  # noqa: PLR0917
    width: int, height: int, box: tuple[int, int, int], sha256: str, mean: float, corner: tuple[int, ...], middle: tuple[int, ...]
) -> None:
    left, top, side = box
    assert crop_box(width, height) == (left, top, left + side, top + side)
    found = prepare(synthetic(width, height)[None])[0]
    assert found.shape == (SIDE, SIDE, 3)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == sha256
    assert found.mean() == pytest.approx(mean, abs=5e-7)
    assert (tuple(found[0, 0]), tuple(found[128, 128])) == (corner, middle)


def test_floor_division_would_cut_another_box() -> None:
    """What makes the half-to-even rule worth a test: margins of 3 modulo 4."""
    assert crop_box(640, 425)[0] == 108 != (640 - 425) // 2
    image = synthetic(640, 425)
    other = Image.fromarray(image[:, 107:532]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    assert not np.array_equal(prepare(image[None])[0], np.asarray(other))


def test_constant_images_stay_constant_and_grey_becomes_three_channels() -> None:
    assert np.unique(prepare(np.full((1, 90, 130, 3), 77, np.uint8))).tolist() == [77]
    grey = synthetic(300, 200)[:, :, 0]
    from_grey = prepare_image(Image.fromarray(grey))
    assert np.array_equal(from_grey, prepare(np.repeat(grey[None, :, :, None], 3, axis=3))[0])
    assert np.ptp(from_grey, axis=2).max() == 0


def test_threads_and_neighbours_change_nothing() -> None:
    images = np.stack([synthetic(97, 64) + np.uint8(i) for i in range(5)])
    alone = np.stack([prepare(image[None])[0] for image in images])
    assert np.array_equal(prepare(images), alone)
    assert np.array_equal(prepare(images, threads=3), alone)


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (640, 425), (425, 641), (333, 500), (64, 48)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_replay_of_the_released_steps(size: tuple[int, int], mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(math.prod(size))
    noise = rng.integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
    assert np.array_equal(prepare_image(image), released_steps(image, tmp_path))
