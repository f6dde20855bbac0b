"""Grids: the images that an evaluation would make of the same captions and seeds, labelled, in a file that says what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError
from sbv2bench.evaluation.grid import Grid, sample_grid
from sbv2bench.registry import Registry
from sbv2bench.report.picture import CELL, GAP, draw_grid, write_grid
from sbv2bench.samplers import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch, image_seed
from sbv2bench.specs import ModelSpec

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


@pytest.fixture(scope="module")
def grid(registry: Registry) -> Grid:
    return sample_grid(["sd-turbo", "real"], "mini", [3, 1], [0, 7], registry, device="cpu")


def test_the_images_are_those_of_an_evaluation(grid: Grid) -> None:
    prompts = load_prompts(Registry.load().suite("mini"), 4)
    assert grid.columns == ((3, 0), (3, 7), (1, 0), (1, 7))
    assert grid.captions == tuple(prompts.captions[number] for number in (3, 3, 1, 1))
    for seed, place in ((0, (2, 0)), (7, (3, 1))):
        seeds = tuple(image_seed(seed, number) for number in range(4))
        whole = load_model("mini/sd-turbo").generate(PromptBlock(0, 0, 4, prompts.captions, seeds), Stopwatch("cpu"))
        ours = grid.images[0][list(place)].astype(int)
        assert np.abs(ours - whole[[1, 3]]).max() <= 1  # blocks of other sizes round otherwise


def test_a_row_for_each_model_a_column_for_each_caption_and_seed(grid: Grid) -> None:
    """Every image is where its model and caption say, enlarged by whole pixels."""
    picture, step = np.asarray(draw_grid(grid)), CELL + GAP
    for row, images in enumerate(grid.images):
        top = picture.shape[0] - (len(grid.images) - row) * step
        for column, pixels in enumerate(images):
            left = picture.shape[1] - GAP - (len(images) - column) * step
            enlarged = pixels.repeat(CELL // 32, 0).repeat(CELL // 32, 1)
            np.testing.assert_array_equal(picture[top : top + CELL, left : left + CELL], enlarged)


def test_the_file_says_what_it_shows(grid: Grid, tmp_path: Path) -> None:
    write_grid(grid, tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as image:
        about = json.loads(image.info["sbv2bench"])
    assert about["suite"] == "mini"
    assert [model["id"] for model in about["models"]] == ["mini/sd-turbo", "mini/real"]
    assert about["columns"][1] == {"caption": 3, "seed": 7, "text": grid.captions[1]}
    student, real = about["models"]
    assert "unet/diffusion_pytorch_model.safetensors" in {file["path"] for file in student["weights"]}
    assert "weights" not in real  # drawn by code alone


def test_large_images_are_reduced_and_captions_are_anybodys_text() -> None:
    model = ModelSpec(id="local/" + "x" * 60, sampler="image_folder")
    images = np.zeros((1, 512, 512, 3), np.uint8)
    picture = draw_grid(Grid("s", (model,), ((0, 0),), ("a\x00\n" + "very long \u202e text " * 40,), (images,)))
    assert picture.width < 512 and picture.height < 512


@pytest.mark.parametrize(
    ("models", "captions", "seeds", "sentence"),
    [
        (["sd-turbo"], [1000], [0], "--captions: found 1000, expected numbers from 0 to 999"),
        (["sd-turbo"], [-1], [0], "--captions: found -1"),
        (["sd-turbo"], [0], [-1], "--seed: found -1"),
        (["sd-turb"], [0], [0], "sd-turb"),
        ([], [0], [0], "at least one model"),
    ],
)
def test_bad_input(models: list[str], captions: list[int], seeds: list[int], sentence: str, registry: Registry) -> None:
    with pytest.raises(InputError, match=sentence):
        sample_grid(models, "mini", captions, seeds, registry)


def test_another_ending_than_png_is_refused(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.png"):
        write_grid(grid, tmp_path / "grid.jpg")
    assert not list(tmp_path.iterdir())
