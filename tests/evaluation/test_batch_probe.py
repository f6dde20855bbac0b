"""The largest batch that a GPU has room for: by two trials, remembered by device and model, smaller once memory ran out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Watched, block_of, run
from typer.testing import CliRunner

from sbv2bench.atomic import known_json
from sbv2bench.cli import app
from sbv2bench.errors import InputError
from sbv2bench.evaluation import batch_probe
from sbv2bench.evaluation.options import LARGEST_BLOCK, EvalOptions
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock

Watch = Callable[[Callable[[PromptBlock, int], None]], list[Watched]]


@pytest.mark.parametrize(
    ("room", "expected"),
    [(109, 1), (120, 2), (139, 2), (140, 4), (1379, 64), (10**9, LARGEST_BLOCK)],
)
def test_the_largest_power_of_two_on_the_line(room: int, expected: int) -> None:
    """Ten bytes an image beside a hundred."""
    assert batch_probe.fitting({8: 180, 2: 120}, room) == expected


def test_images_that_take_nothing_are_not_endless() -> None:
    assert batch_probe.fitting({2: 120, 8: 120}, 200) == 64


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU with room for four images at a time. Returns the sizes that were tried."""
    tried: list[int] = []

    def peak(sampler: Any, block: Any, count: int, device: str) -> int:
        tried.append(count)
        return 100 + 10 * count

    monkeypatch.setattr(EvalOptions, "block_size", lambda self, suites, device: LARGEST_BLOCK)
    monkeypatch.setattr(batch_probe, "peak_bytes", peak)
    monkeypatch.setattr(batch_probe, "room_bytes", lambda device: 140)
    return tried


def test_it_is_tried_once_and_remembered(registry: Registry, home: Path, card: list[int]) -> None:
    found = run(registry, batch_size="largest", use_cache=False)
    assert card == [2, 8] and found.suite.block_sizes == (4,)
    assert [*known_json(home / batch_probe.FILE).values()] == [4]
    again = run(registry, batch_size="largest", use_cache=False)
    assert card == [2, 8] and block_of(again) == block_of(found)
    assert block_of(run(registry, batch_size=4, use_cache=False)) == block_of(found)


@pytest.mark.usefixtures("home", "card")
@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (7, 2)])
def test_a_trial_that_does_not_fit(registry: Registry, monkeypatch: pytest.MonkeyPatch, most: int, expected: int) -> None:
    def peak(sampler: Any, block: Any, count: int, device: str) -> int:
        if count > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1

    monkeypatch.setattr(batch_probe, "peak_bytes", peak)
    assert run(registry, batch_size="largest", use_cache=False, limit=4).suite.block_sizes == (expected,)


def test_a_size_that_did_not_fit_after_all_is_halved_for_good(
    registry: Registry, home: Path, card: list[int], watch: Watch
) -> None:
    def full(block: PromptBlock, begun: int) -> None:
        if len(block.captions) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch(full)
    assert run(registry, batch_size="largest", use_cache=False).suite.block_sizes == (2,)
    assert [*known_json(home / batch_probe.FILE).values()] == [2]


@pytest.mark.parametrize("content", ["", "[]", '{"key": 4}', "{"])
def test_a_memory_that_cannot_be_read_is_found_again(registry: Registry, home: Path, card: list[int], content: str) -> None:
    home.mkdir(exist_ok=True)
    (home / batch_probe.FILE).write_text(content)
    assert run(registry, batch_size="largest", use_cache=False, limit=4).suite.block_sizes == (4,)


def test_a_cpu_has_no_largest_batch() -> None:
    assert EvalOptions.validated(batch_size="largest").batch_size == "largest"
    with pytest.raises(InputError, match="found 'largest', expected a CUDA GPU to try it on, here is cpu"):
        EvalOptions(batch_size="largest").block_size(50, "cpu")
    done = CliRunner().invoke(
        app, ["eval", "--model", "sd-turbo", "--suite", "mini-5k", "--batch-size", "largest", "--device", "cpu"]
    )
    assert done.exit_code == 2 and "--batch-size auto" in done.output
