"""Blocks of captions, the noise that belongs to each, and the images that people ask to keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_suite import BLOCK, GENERATED

from sbv2bench.data.prompts import Prompts, load_prompts
from sbv2bench.data.reference import reference_blocks
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.generate import SAMPLE, blocks
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.evaluation.saved_images import SavedImages
from sbv2bench.mini import world
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock, Stopwatch, image_seed


def planned(registry: Registry, **options: object) -> EvalPlan:
    return plan("student", "tiny", EvalOptions.validated(**options), registry)  # type: ignore[arg-type]


def test_blocks_cover_every_caption_once_in_order(registry: Registry) -> None:
    found = planned(registry)
    cut = blocks(found, found.prompts, seed=5)
    assert [block.index for block in cut] == [0, 1, 2, 3, 4]
    assert [block.count for block in cut] == [6, 6, 6, 6, 2]
    assert all(len(block.captions) == len(block.noise_seeds) == 6 for block in cut)
    assert [caption for block in cut for caption in block.captions[: block.count]] == list(found.prompts.captions)
    assert [seed for block in cut for seed in block.noise_seeds[: block.count]] == [image_seed(5, i) for i in range(GENERATED)]
    last = cut[-1]
    assert last.captions[1:] == (found.prompts.captions[-1],) * 5
    assert last.noise_seeds[1:] == (image_seed(5, GENERATED - 1),) * 5


def test_noise_belongs_to_the_caption(registry: Registry) -> None:
    """Neither the block size nor --limit moves a caption's noise; the seed does."""

    def noise(seed: int, **options: object) -> list[int]:
        found = planned(registry, **options)
        return [value for block in blocks(found, found.prompts, seed) for value in block.noise_seeds[: block.count]]

    base = noise(0)
    assert noise(0, batch_size=4) == base
    assert noise(0, batch_size=100) == base
    assert noise(0, limit=9) == base[:9]
    assert not set(noise(1)) & set(base)


def test_prompts_are_the_suites_captions(registry: Registry) -> None:
    suite = registry.suite("tiny")
    prompts = load_prompts(suite)
    drawn = world.scenes("reporting", range(700_000, 700_000 + GENERATED))
    assert prompts.captions == tuple(world.captions(drawn))
    assert prompts.attributes is not None
    assert np.array_equal(prompts.attributes, drawn.attributes)
    assert prompts.styles == tuple(world.STYLES[style] for style in drawn.column("style"))
    assert all(style in caption for style, caption in zip(prompts.styles, prompts.captions, strict=True))
    assert load_prompts(suite, 7).captions == prompts.captions[:7]
    assert load_prompts(suite, 7).sha256 != prompts.sha256
    # the raw text, joined with newlines, in UTF-8
    assert Prompts(("a", "é\nb")).sha256 == "1fed4b8f6e8b056a7ac4764c1c76d3046fc23617bca743e402d28347a02a07bd"
    for limit in (1, 0, -3, GENERATED + 1):
        with pytest.raises(InputError, match="--limit"):
            load_prompts(suite, limit)


def test_reference_is_fresh_and_cut_at_will(registry: Registry) -> None:
    suite = registry.suite("tiny")
    whole = np.concatenate(list(reference_blocks(suite)))
    assert whole.shape == (suite.num_reference, 32, 32, 3)
    assert whole.dtype == np.uint8
    assert np.array_equal(np.concatenate(list(reference_blocks(suite, block_size=7))), whole)
    moved = suite.model_copy(update={"prompts": suite.prompts.model_copy(update={"caption_offset": 700_010})})
    assert np.array_equal(np.concatenate(list(reference_blocks(moved)))[:30], whole[10:])


class Numbered:
    """A sampler whose image is its caption's number; counts what it is asked for."""

    resolution = 32

    def __init__(self) -> None:
        self.asked: list[int] = []

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> np.ndarray:
        self.asked.append(block.index)
        rows = np.minimum(np.arange(len(block.captions)), block.count - 1) + block.first
        return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 32, 32, 3)).copy()


def saved(folder: Path) -> dict[str, int]:
    return {path.name: int(np.asarray(Image.open(path)).max()) for path in sorted(folder.iterdir())}


def test_saved_images_are_named_by_caption(registry: Registry, tmp_path: Path) -> None:
    """One block was written as it was made; the others are sampled when the run is done."""
    sampler, plan = Numbered(), planned(registry, save_images="all", results=str(tmp_path / "results"))
    saved_images = SavedImages(plan)
    block = blocks(plan, plan.prompts, 0)[1]
    saved_images.keep(block, sampler.generate(block, Stopwatch()))
    assert len(list(saved_images.folder.iterdir())) == BLOCK
    sampler.asked.clear()
    SavedImages(plan).finish(lambda: sampler, tmp_path / "images")  # type: ignore[arg-type, return-value]
    assert saved(tmp_path / "images") == {f"{i:08d}.png": i for i in range(GENERATED)}
    assert sampler.asked == [0, 2, 3, 4]
    assert [path.name for path in tmp_path.rglob("*images*")] == ["images"]


def test_images_that_a_kill_kept_from_their_place_are_not_made_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, plan = Numbered(), planned(registry, save_images="all", results=str(tmp_path / "results"))

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("sbv2bench.atomic._open_as_the_folder", killed)
        SavedImages(plan).finish(lambda: sampler, tmp_path / "images")  # type: ignore[arg-type, return-value]
    assert sampler.asked == [0, 1, 2, 3, 4]
    SavedImages(plan).finish(lambda: sampler, tmp_path / "images")  # type: ignore[arg-type, return-value]
    assert sampler.asked == [0, 1, 2, 3, 4] and len(saved(tmp_path / "images")) == GENERATED


def test_a_sample_is_32_images_of_the_first_blocks(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SAMPLE == 32
    monkeypatch.setattr("sbv2bench.evaluation.generate.SAMPLE", 8)
    sampler = Numbered()
    SavedImages(planned(registry, save_images="sample")).finish(lambda: sampler, tmp_path / "images")  # type: ignore[arg-type, return-value]
    assert saved(tmp_path / "images") == {f"{i:08d}.png": i for i in range(8)}
    assert sampler.asked == [0, 1]


def test_images_that_cannot_be_saved_leave_nothing(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(IntegrityError, match="No space left"):
        SavedImages(planned(registry, save_images="all")).finish(Numbered, tmp_path / "images")  # type: ignore[arg-type]
    assert not (tmp_path / "images").exists()
