"""Two processes that share a batch through DistributedDataParallel: the gradient of one, and the bits of an unbroken run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_recipe import make_trainer
from torch.multiprocessing.spawn import spawn
from two_processes import SETTINGS, gradients, trainer_of, work


@pytest.fixture(scope="module")
def ends(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    make_trainer(family, **SETTINGS)  # the pairs are made
    spawn(work, (family, out), nprocs=2)
    return out


@pytest.mark.ci
def test_two_processes_have_the_gradient_of_one(family: Path, ends: Path) -> None:
    one = gradients(trainer_of(family, 0, 1))
    for rank in (0, 1):
        found = torch.load(ends / f"{rank}.pt")
        assert found.keys() == one.keys()
        for key, value in one.items():
            assert torch.allclose(found[key], value, rtol=1e-4 if key == "figures" else 0, atol=1e-6), key


@pytest.mark.ci
def test_two_processes_resume_to_the_same_bits(ends: Path) -> None:
    assert [json.loads((ends / f"{rank}.json").read_text()) for rank in (0, 1)] == [True, True]
