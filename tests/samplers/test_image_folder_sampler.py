"""image_folder gives the i-th file for the i-th prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.samplers.image_folder import ImageFolderSampler
from sbv2bench.specs import ModelSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def sampler(folder: Path) -> ImageFolderSampler:
    return ImageFolderSampler(ModelSpec(id="local/images", sampler="image_folder", location=str(folder)), "cpu", torch.float32)


def block(index: int, count: int, size: int) -> PromptBlock:
    """A block of a suite whose captions begin at index 500,000."""
    return PromptBlock(index, 500_000 + index * size, count, ("x",) * size, (0,) * size)


def test_blocks_in_order_and_padded(folder: Path) -> None:
    model = sampler(folder)
    assert (model.resolution, model.network_calls, model.spec.network_evaluations()) == (8, 0, 0)
    images = np.concatenate([model.generate(block(0, 5, 5), Stopwatch()), model.generate(block(1, 5, 5), Stopwatch())])
    assert images.dtype == np.uint8
    assert images.shape == (10, 8, 8, 3)
    assert images[:, 0, 0, 0].tolist() == [20 * i for i in range(10)]
    assert model.generate(block(2, 2, 5), Stopwatch())[:, 0, 0, 0].tolist() == [200, 220, 220, 220, 220]


def test_fewer_images_than_prompts(folder: Path) -> None:
    with pytest.raises(IntegrityError, match="12 images for 15 prompts"):
        sampler(folder).generate(block(2, 5, 5), Stopwatch())


def test_images_that_are_not_square_and_folders_that_are_none(folder: Path) -> None:
    with pytest.raises(InputError, match="no pipeline"):
        sampler(folder).pipeline()
    for file in folder.iterdir():
        Image.new("RGB", (8, 6)).save(file)
    assert (sampler(folder).resolution, sampler(folder).width) == (6, 8)
    with pytest.raises(InputError, match="does not exist"):
        sampler(folder / "gone")
