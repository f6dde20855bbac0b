"""The gallery: images by model and caption with their recorded scores, and refused where the file is not as it should be."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_results import sample_result

from sbv2bench.boards import boards as measured
from sbv2bench.boards import gallery
from sbv2bench.boards.page_boards import board_shown
from sbv2bench.compare.differences import Contestant, compare_results
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.report import picture
from sbv2bench.report.picture import Grid
from sbv2bench.results import prompt_values, store
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec


def scored(guidance: float = 3.0) -> tuple[EvalResult, bytes]:
    values = np.linspace(0, 1, 15000, dtype=np.float32).reshape(3, 5000)
    result, content = prompt_values.attach(sample_result(3.0, guidance=guidance), {"clip_score": values})
    assert content is not None
    return result, content


def spec(result: EvalResult) -> ModelSpec:
    return ModelSpec(**{name: getattr(result.model, name) for name in ModelSpec.model_fields})


def written(folder: Path, *, native: bool = True) -> Path:
    result, content = scored()
    store.write(result, folder / "results", content)
    other = spec(result).model_copy(update={"guidance_scale": 9.0})
    images = tuple(np.full((2, 8, 8, 3), shade, np.uint8) for shade in (50, 200))
    grid = Grid("mini-5k", (spec(result), other), ((4, 1), (0, 1)), ("a red ring", "a <b>"), images)
    path = folder / "gallery" / "mini-5k.png"
    picture.write_grid(grid, path, native=native)
    return path


def test_images_have_the_scores_of_the_same_weights_caption_and_seed(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = measured.boards(tmp_path)
    board = next(board for board in found if board.rows)
    made = gallery.gallery(path, tmp_path, found, [board_shown(board)])
    assert (made.side, made.captions) == (8, ((4, "a red ring"), (0, "a <b>")))
    known, unknown = made.models
    assert known.row == "sd21" and unknown.row == "" and unknown.scores == {}
    assert known.scores["clip_score"] == pytest.approx((5004 / 14999, 5000 / 14999), rel=1e-5)
    assert [metric.key for metric in made.metrics] == ["clip_score"]
    with Image.open(io.BytesIO(made.png)) as image:
        assert image.size == (16, 16) and image.getpixel((0, 8)) == (200, 200, 200)  # the images alone, as they are


def test_a_labelled_grid_is_no_gallery(tmp_path: Path) -> None:
    path = written(tmp_path, native=False)
    with pytest.raises(IntegrityError, match="labelled grid") as caught:
        gallery.gallery(path, tmp_path, measured.boards(tmp_path), [])
    assert "--native" in str(caught.value.fix) and "--captions 4,0" in str(caught.value.fix)


def test_the_worst_are_of_a_score_that_all_have_on_a_suite_that_everybody_has() -> None:
    result, _ = scored()
    values = {"clip_score": np.zeros((3, 5000), np.float32)}
    pair = [Contestant("a", result, values), Contestant("b", scored(2.0)[0], values)]
    registry = Registry.built_in()
    with pytest.raises(InputError, match="clip_score") as caught:
        gallery.worst(compare_results(pair), "hps", 4, registry)
    assert caught.value.fix == "--metric clip_score"
    bare = [Contestant(one.name, one.result, {}) for one in pair]
    with pytest.raises(InputError, match="none is"):
        gallery.worst(compare_results(bare), "clip_score", 4, registry)
