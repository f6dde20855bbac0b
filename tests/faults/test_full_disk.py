"""A disk that has no room left, in the middle of everything that writes: exit 4, and what was there stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asset_server import CONTENT, SHA256, Server
from merge_ends import declare
from running import Watched, block_of, nothing, run
from sample_results import sample_result
from tiny_models import write_tiny_student
from tiny_recipe import tiny_recipe
from tiny_suite import BLOCK

from reference_trainer.loop import Asked, train
from reference_trainer.merge import merge
from reference_trainer.prompts.build import build_prompts
from reference_trainer.training.checkpoint import checkpoints, verified
from sbv2bench.boards import text as leaderboard
from sbv2bench.data import asset_store, transfer
from sbv2bench.errors import IntegrityError
from sbv2bench.evaluation.evaluate import evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.cache import FeatureCache
from sbv2bench.machine.doctor import verify_cache
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.samplers.base import PromptBlock
from sbv2bench.specs import AssetSpec

Watch = Callable[[Callable[[PromptBlock, int], None]], list[Watched]]
Fill = Callable[[], None]


def emptied(disk: Path) -> None:
    for ballast in disk.glob("ballast*"):
        ballast.unlink()


@pytest.mark.ci
def test_a_cache_that_fills_up_keeps_the_blocks_before(  # noqa: PLR0917  # fixtures
    registry: Registry, watch: Watch, small_disk: Path, fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = block_of(run(registry, use_cache=False))
    monkeypatch.setenv("SBV2BENCH_HOME", str(small_disk / "home"))
    watch(lambda block, begun: fill() if begun == 4 else None)
    planned = plan("teacher", "tiny", EvalOptions.validated(results=tmp_path / "results"), registry)
    with pytest.raises(IntegrityError, match=r"the cache cannot be written \(No space left on device") as caught:
        evaluate_and_store(planned, registry)
    assert caught.value.exit_code == 4 and "SBV2BENCH_HOME" in str(caught.value.fix)
    assert not (tmp_path / "results").exists()
    kept = FeatureCache(small_disk / "home" / "features").block_numbers(planned.generated_key("tiny-world", 0))
    assert 1 <= len(kept) <= 4 and not verify_cache()[1]
    emptied(small_disk)
    watch(nothing)
    resumed = run(registry)
    assert resumed.resumed_images >= BLOCK and block_of(resumed) == expected


def test_results_that_find_no_room_are_written_by_the_next_run(
    registry: Registry, small_disk: Path, fill: Fill, watch: Watch
) -> None:
    options = EvalOptions.validated(results=small_disk / "results", save_images="all")
    watch(lambda block, begun: fill() if begun == 3 else None)
    with pytest.raises(IntegrityError, match=r"cannot be written \(No space left") as caught:
        evaluate_and_store(plan("student", "tiny", options, registry), registry)
    assert caught.value.exit_code == 4 and not store.find(small_disk / "results")
    emptied(small_disk)
    loaded = watch(nothing)
    result, path = evaluate_and_store(plan("student", "tiny", options, registry), registry)
    assert path is not None and store.load(path) == result and result.resumed_images > 0
    assert len(list(path.with_name(f"{path.stem}-images").glob("*.png"))) == 26 and loaded


@pytest.mark.ci
def test_a_run_whose_disk_fills_up_keeps_its_checkpoints(
    family: Path, small_disk: Path, fill: Fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBV2BENCH_CATALOG", str(family / "catalog.yaml"))
    recipe = tiny_recipe(family, steps=8)
    assert train(recipe, tmp_path / "whole", Asked(whole_export=False))
    from reference_trainer.step import Trainer

    take_step = Trainer.take_step

    def then_full(self: Trainer) -> dict[str, float]:
        if self.step == 5:
            fill()
        return take_step(self)

    with monkeypatch.context() as patch, pytest.raises(IntegrityError) as caught:
        patch.setattr(Trainer, "take_step", then_full)
        train(recipe, small_disk / "run", Asked(whole_export=False))
    assert caught.value.exit_code == 4 and len(str(caught.value).splitlines()) <= 3
    kept = checkpoints(small_disk / "run" / "checkpoints")
    assert [path.name for path in kept] == ["00000002", "00000004"]
    for path in kept:
        verified(path, ("step",))
    emptied(small_disk)
    assert train(recipe, small_disk / "run", Asked(whole_export=False))
    unet = "export/unet/diffusion_pytorch_model.safetensors"
    assert (small_disk / "run" / unet).read_bytes() == (tmp_path / "whole" / unet).read_bytes()


def boards(disk: Path) -> Any:
    store.write(sample_result(), disk / "boards" / "results")
    leaderboard.build(disk / "boards")
    store.write(sample_result(3.0, guidance=5.0), disk / "boards" / "results")
    return lambda: leaderboard.build(disk / "boards")


def added(disk: Path) -> Any:
    given = store.write(sample_result(), disk.parent / "given", b"")
    (disk / "boards" / "results").mkdir(parents=True)
    return lambda: leaderboard.add([given], disk / "boards")


def prompts(disk: Path) -> Any:
    source = disk.parent / "captions.txt"
    source.write_text("".join(f"a caption of many words, of which this is number {n}\n" for n in range(5000)))
    build_prompts([source], disk / "list", exclude=(), name="all", limit=100)
    return lambda: build_prompts([source], disk / "list", exclude=(), name="all")


def merged(disk: Path) -> Any:
    from tiny_models import write_tiny_pipeline

    a = declare(write_tiny_pipeline(disk.parent / "a"))
    b = declare(write_tiny_student(disk.parent / "b", a, seed=5))
    return lambda: merge(str(a), str(b), 0.5, disk / "merged")


@pytest.mark.parametrize("prepare", [boards, added, prompts, merged])
def test_what_finds_no_room_leaves_what_was_there(small_disk: Path, fill: Fill, prepare: Callable[[Path], Any]) -> None:
    write = prepare(small_disk)
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    fill()
    with pytest.raises(IntegrityError) as caught:
        write()
    assert caught.value.exit_code == 4 and len(str(caught.value).splitlines()) <= 3
    emptied(small_disk)
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
    write()
    assert {path for path in small_disk.rglob("*") if path.is_file()} >= set(before)


def test_a_download_that_finds_no_room_is_brought_by_the_next_command(
    server: Server, small_disk: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the file has begun, although it had room for all of it before."""
    monkeypatch.setenv("SBV2BENCH_HOME", str(small_disk / "home"))
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    asset = AssetSpec.model_validate(
        {"id": "thing", "filename": "file.bin", "urls": [server.url], "sha256": SHA256, "bytes": len(CONTENT)}
    )
    (small_disk / "home").mkdir()
    asset_store.place(asset).parent.mkdir(parents=True)
    fill()
    with pytest.raises(IntegrityError, match="No space left") as caught:
        asset_store.fetch(asset, pause=0)
    assert caught.value.exit_code == 4
    emptied(small_disk)
    assert asset_store.fetch(asset, pause=0).read_bytes() == CONTENT


def test_a_full_disk_is_told_before_anything_is_computed(registry: Registry, small_disk: Path, fill: Fill, watch: Watch) -> None:
    fill()
    loaded = watch(nothing)
    options = EvalOptions.validated(results=small_disk / "results", save_images="all")
    with pytest.raises(IntegrityError, match="found 0 MB free, expected"):
        evaluate_and_store(plan("student", "tiny", options, registry), registry)
    assert not loaded
