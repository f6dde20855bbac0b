"""Tiny pipeline folders, written once a session, and blocks of prompts to ask them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_tiny_pipeline

from sbv2bench.samplers.base import PromptBlock, image_seed

CAPTIONS = (
    "a red circle",
    "photo of a large blue star",
    "",
    "a neon ring, and a text that is much too long for this tokenizer",
    "blue",
)


@pytest.fixture(scope="session")
def v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v_prediction, 8 latent channels: the mini family's shape."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("models") / "v")


@pytest.fixture(scope="session")
def epsilon_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """epsilon, 4 latent channels: Stable Diffusion 2.1-base's shape."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("models") / "epsilon", "epsilon", latent_channels=4, seed=1)


@pytest.fixture(scope="session")
def folders(v_folder: Path, epsilon_folder: Path) -> dict[str, Path]:
    return {"v_prediction": v_folder, "epsilon": epsilon_folder}


def make_block(first: int = 0, count: int = 4, size: int | None = None, seed: int = 0) -> PromptBlock:
    """Prompts first .. first + count - 1 of an endless list, padded to size."""
    rows = [*range(first, first + count)] + [first + count - 1] * ((size or count) - count)
    return PromptBlock(
        index=first // (size or count),
        first=first,
        count=count,
        captions=tuple(CAPTIONS[row % len(CAPTIONS)] for row in rows),
        noise_seeds=tuple(image_seed(seed, row) for row in rows),
    )


@pytest.fixture(name="make_block", scope="session")
def make_block_fixture() -> object:
    return make_block
