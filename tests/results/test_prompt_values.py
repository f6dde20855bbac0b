"""Values of single captions: stored beside the result, read back whole, refused when they are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_results import sample_result

from sbv2bench.boards import text as leaderboard
from sbv2bench.errors import IntegrityError
from sbv2bench.results import prompt_values, store
from sbv2bench.results.records import EvalResult

VALUES = {
    "clip_score": np.stack([np.linspace(seed, seed + 1, 5000) for seed in range(3)]).astype(np.float32),
    "attribute_accuracy": np.zeros((3, 5000), np.uint8),
}


def stored(folder: Path) -> tuple[EvalResult, Path]:
    result, content = prompt_values.attach(sample_result(), VALUES)
    assert content is not None
    return result, store.write(result, folder, content)


def test_values_are_those_of_the_results_metrics(tmp_path: Path) -> None:
    result, path = stored(tmp_path)
    assert store.load(path) == result
    values = prompt_values.read(result, path)
    assert list(values) == ["clip_score"]  # the sample has no attribute_accuracy, so its values are not kept
    np.testing.assert_array_equal(values["clip_score"], VALUES["clip_score"])
    assert result.metrics["clip_score"].prompt_values and result.metrics["fid"].prompt_values is None


def test_a_result_without_values_of_captions_has_no_file(tmp_path: Path) -> None:
    result, content = prompt_values.attach(sample_result(), {})
    assert content is None and result.metrics["clip_score"].prompt_values is None
    path = store.write(result, tmp_path)
    assert prompt_values.read(result, path) == {}
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_file_that_was_not_copied_is_no_error(tmp_path: Path) -> None:
    result, path = stored(tmp_path)
    prompt_values.path_beside(path).unlink()
    assert prompt_values.read(result, path) == {}


def test_another_results_values_are_refused(tmp_path: Path) -> None:
    result, path = stored(tmp_path)
    beside = prompt_values.path_beside(path)
    content = bytearray(beside.read_bytes())
    content[-1] ^= 1
    beside.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"expected .* which .* names"):
        prompt_values.read(result, path)
    with pytest.raises(IntegrityError):
        leaderboard.add([path], tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_values_of_another_number_of_captions_are_refused(tmp_path: Path) -> None:
    result, content = prompt_values.attach(sample_result(), {"clip_score": np.zeros((3, 4999), np.float32)})
    path = store.write(result, tmp_path, content)
    with pytest.raises(IntegrityError, match=r"\[3, 4999\], expected \[3, 5000\]"):
        prompt_values.read(result, path)


def test_a_leaderboard_takes_the_values_along(tmp_path: Path) -> None:
    _, path = stored(tmp_path / "results")
    (copy,) = leaderboard.add([path], tmp_path / "board")
    assert prompt_values.path_beside(copy).read_bytes() == prompt_values.path_beside(path).read_bytes()
