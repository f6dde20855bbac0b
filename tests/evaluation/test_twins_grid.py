"""A grid has a row for each of today's pipeline classes, and shows the image that `eval` measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from twins import NAMES, twin_spec, write_twin

from sbv2bench.evaluation.grid import sample_grid
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch, image_seed


@pytest.mark.ci
def test_every_twin_has_its_row(tmp_path: Path) -> None:
    registry = Registry.built_in()
    specs = [twin_spec(name, write_twin(name, tmp_path / name)) for name in NAMES]
    for spec in specs:
        registry.add("model", spec)
    grid = sample_grid([spec.id for spec in specs], "mini", [0, 2], [0], registry)
    assert [model.id for model in grid.models] == [f"local/{name}" for name in NAMES]
    assert all(images.shape == (2, 32, 32, 3) and images.std() > 5 for images in grid.images)
    block = PromptBlock(2, 2, 1, (grid.captions[1],), (image_seed(0, 2),))
    alone = load_sampler(specs[-1], "cpu", torch.float32).generate(block, Stopwatch())
    assert np.abs(alone[0].astype(int) - grid.images[-1][1]).max() <= 1
