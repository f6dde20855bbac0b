"""Seeds that belong to images, rounding, and the clock."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from sbv2bench.errors import IntegrityError
from sbv2bench.samplers.base import Stopwatch, generators, image_seed, initial_noise, to_uint8


@pytest.mark.parametrize(
    ("seed", "first_four"),
    [
        (0, (-1.12583983, -1.15236020, -0.25057858, -0.43387881)),
        (1, (-1.52559590, -0.75023180, -0.65398091, -1.60948479)),
        (12345, (-1.47980773, 0.48730600, -3.01279378, 0.44385520)),
    ],
)
def test_noise_of_a_generator_is_the_known_one(seed: int, first_four: tuple[float, ...]) -> None:
    noise = initial_noise(generators([7, seed, 8]), (4, 64, 64))
    assert noise.shape == (3, 4, 64, 64)
    assert noise.dtype == torch.float32
    np.testing.assert_allclose(noise[1].flatten()[:4].numpy(), first_four, atol=1e-7)


def test_seeds_of_images_are_64_bit_hashes_of_seed_and_index() -> None:
    # b2sum -l 64 of "0:0" and "3:41": seeds must never change, or every result does
    assert image_seed(0, 0) == 0xD56C9C7E6769D062
    assert image_seed(3, 41) == 0x49EF62455ABF370C
    seeds = {image_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 20 * 500
    assert max(seeds) > 2**63
    assert image_seed(1, 23) != image_seed(12, 3)


def test_a_generator_moves_on() -> None:
    rngs = generators([5])
    first, second = initial_noise(rngs, (2, 4, 4)), initial_noise(rngs, (2, 4, 4))
    assert not torch.equal(first, second)
    assert torch.equal(first, initial_noise(generators([5]), (2, 4, 4)))


def test_rounding_is_half_up_and_clamped() -> None:
    values = torch.tensor([-0.2, 0.0, 0.00196, 0.5, 0.9999, 1.2, 0.5 / 255, 1.5 / 255, 2.5 / 255])
    images = to_uint8(values.reshape(1, 1, 3, 3))
    assert images.dtype == np.uint8
    # half-even, as numpy rounds, would make 0 of 0.5 and 2 of 2.5
    assert images.reshape(-1).tolist() == [0, 0, 0, 128, 255, 255, 1, 2, 3]


def test_channels_come_last() -> None:
    images = to_uint8(torch.arange(24).reshape(2, 3, 2, 2) / 255)
    assert images.shape == (2, 2, 2, 3)
    assert images[1, 0, 1].tolist() == [13, 17, 21]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_numbers_are_refused(bad: float) -> None:
    images = torch.zeros(3, 3, 2, 2)
    to_uint8(images)
    images[1, 2, 0, 1] = bad
    with pytest.raises(IntegrityError, match=r"1 of 3 images .*rows \[1\]"):
        to_uint8(images)


def test_a_stopwatch_sums_by_stage_and_over_threads() -> None:
    stopwatch = Stopwatch()

    def work() -> None:
        for _ in range(5):
            with stopwatch.stage("denoise"):
                time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stopwatch.seconds["denoise"] >= 0.2
    assert stopwatch.seconds["text"] == stopwatch.seconds["decode"] == 0.0


def test_another_dtype_is_advised_only_where_there_is_a_wider_one() -> None:
    for dtype, fix in ((torch.float32, None), (torch.float16, "--dtype float32")):
        with pytest.raises(IntegrityError) as caught:
            to_uint8(torch.full((1, 3, 2, 2), float("nan"), dtype=dtype))
        assert caught.value.fix == fix
