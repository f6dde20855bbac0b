"""Nothing done twice, nothing lost, nothing stale."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import Watched, block_of, cache_of, interrupt_after, nothing, run
from tiny_suite import BLOCK, GENERATED, write_tiny_suite

from sbv2bench.data import remarks
from sbv2bench.errors import IntegrityError, InterruptedRun, PrerequisiteError
from sbv2bench.evaluation import evaluate as spine
from sbv2bench.evaluation import gather
from sbv2bench.evaluation import measure as measuring
from sbv2bench.evaluation.evaluate import Run, evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.cache import FeatureCache
from sbv2bench.machine.processes import Processes
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock

Watch = Callable[[Callable[[PromptBlock, int], None]], list[Watched]]


def test_no_cache_writes_nothing(registry: Registry, home: Path) -> None:
    run(registry, "student", use_cache=False)
    assert not (home / "features").exists()


def test_interrupted_then_resumed(registry: Registry, watch: Watch, home: Path, tmp_path: Path) -> None:
    expected = block_of(run(registry, use_cache=False))
    watch(interrupt_after(3))
    planned = plan("teacher", "tiny", EvalOptions.validated(results=tmp_path / "results"), registry)
    with pytest.raises(InterruptedRun) as caught:
        evaluate_and_store(planned, registry)
    assert caught.value.exit_code == 130
    assert not (tmp_path / "results").exists()
    kept = len(FeatureCache(home / "features").block_numbers(planned.generated_key("tiny-world", 0)))
    assert 1 <= kept <= 3
    # the last block is one of two images, and comes last
    assert f"interrupted: {kept * BLOCK} of {GENERATED} images are kept" in str(caught.value)
    assert "same command again" in str(caught.value)
    loaded = watch(nothing)
    steps: list[tuple[str, int, int]] = []
    resumed = run(registry, progress=lambda *step: steps.append(step))
    assert resumed.resumed_images == kept * BLOCK
    assert cache_of(resumed)[0] == "resumed"
    assert loaded[0].begun == 5 - kept
    left = GENERATED - kept * BLOCK
    assert steps[0] == ("found in the cache", kept * BLOCK, GENERATED)
    assert next(step for step in steps if step[0] == "generate") == ("generate", 0, left)  # once all is loaded
    assert steps[-1] == ("generate", left, left)
    assert block_of(resumed) == expected
    assert not list((home / "features").glob("*.blocks"))
    assert cache_of(run(registry)) == ("hit", "hit")


def test_interrupted_without_cache_says_that_nothing_is_kept(registry: Registry, watch: Watch) -> None:
    watch(interrupt_after(2))
    with pytest.raises(InterruptedRun, match="--no-cache keeps none of 26 images"):
        run(registry, use_cache=False)


@pytest.mark.ci
def test_interrupted_between_seeds(registry: Registry, watch: Watch) -> None:
    expected = block_of(run(registry, repeats=2, use_cache=False))
    watch(interrupt_after(5))
    with pytest.raises(InterruptedRun, match=f"interrupted: {GENERATED} of {2 * GENERATED} images are kept"):
        run(registry, repeats=2)
    loaded = watch(nothing)
    resumed = run(registry, repeats=2)
    assert (resumed.resumed_images, cache_of(resumed)[0]) == (GENERATED, "resumed")
    assert loaded[0].begun == 5
    assert block_of(resumed) == expected


def test_an_error_in_a_block_is_told_and_the_others_are_kept(registry: Registry, watch: Watch) -> None:
    def broken(block: PromptBlock, begun: int) -> None:
        if block.index == 3:
            raise IntegrityError("block 3 is broken")

    loaded = watch(broken)
    with pytest.raises(IntegrityError, match="block 3 is broken"):
        run(registry)
    assert loaded[0].begun <= 5
    watch(nothing)
    assert run(registry).resumed_images >= BLOCK


def too_small_for(most: int) -> Callable[[PromptBlock, int], None]:
    """A device that has no room for more images than that at a time."""

    def full(block: PromptBlock, begun: int) -> None:
        if len(block.captions) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return full


@pytest.mark.ci
def test_out_of_memory_halves_the_block_and_keeps_what_was_made(
    registry: Registry, watch: Watch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remarks, "said", set())
    expected = run(registry, use_cache=False)
    watch(too_small_for(2))
    found = run(registry)
    assert found.suite.block_sizes == (1,)
    assert "too little memory for 6 images at a time; continuing with 3" in capsys.readouterr().err
    assert found.metrics["fid"].value == pytest.approx(expected.metrics["fid"].value, rel=1e-3)
    watch(nothing)
    again = run(registry)  # the size of a block is no part of the key
    assert cache_of(again)[0] == "hit" and block_of(again) == block_of(found)
    assert again.suite.block_sizes == found.suite.block_sizes


@pytest.mark.ci
def test_a_run_goes_on_with_another_block_size(registry: Registry, watch: Watch) -> None:
    """What was finished with the larger size is kept, and both sizes are in the result."""
    watch(interrupt_after(3))
    with pytest.raises(InterruptedRun):
        run(registry)
    watch(nothing)
    found = run(registry, batch_size=4)
    assert found.resumed_images >= 4
    assert found.suite.block_sizes == (BLOCK, 4)
    assert found.metrics["fid"].value == pytest.approx(run(registry, use_cache=False).metrics["fid"].value, rel=1e-3)


def test_one_image_that_does_not_fit_is_said(registry: Registry, watch: Watch) -> None:
    watch(too_small_for(0))
    with pytest.raises(PrerequisiteError, match="out of memory for one image"):
        run(registry)


@pytest.mark.ci
def test_memory_that_runs_out_elsewhere(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """While loading there is nothing to halve; the reference is measured in smaller blocks; timing keeps what was made."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    real, sizes = measuring.Measurer.of_reference, []

    def small(self: Any, names: Any, ranges: list[range], workers: int) -> Any:
        sizes.append(max(map(len, ranges)))
        return full() if sizes[-1] > 15 else real(self, names, ranges, workers)

    monkeypatch.setattr(measuring.Measurer, "of_reference", small)
    assert run(registry, metrics="fid").metrics["fid"].value == pytest.approx(run(registry).metrics["fid"].value, rel=1e-12)
    assert sizes == [40, 40, 25, 12]  # of 100, of which there are 40, then of 50, 25 and 12
    monkeypatch.setattr(spine, "quick_latency", full)
    with pytest.raises(PrerequisiteError, match="while single images were timed; what was measured is kept"):
        run(registry, metrics="fid,latency")
    assert cache_of(run(registry, metrics="fid"))[0] == "hit"
    monkeypatch.setattr(spine, "load_sampler", full)
    with pytest.raises(PrerequisiteError, match=r"while local/student was loaded in float32"):
        run(registry, "student")


def test_a_reference_is_shared_by_processes_and_goes_on_where_it_was_cut(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four blocks of ten: those of the second process are kept, and the first one measures its own alone."""
    expected = block_of(run(registry, metrics="fid", use_cache=False))
    monkeypatch.setattr(gather, "REFERENCE_BLOCK", 10)
    planned = plan("teacher", "tiny", EvalOptions.validated(metrics="fid"), registry)
    names, real, measured = planned.references, measuring.Measurer.of_reference, []

    def noted(self: Any, names: Any, ranges: list[range], workers: int) -> Any:
        measured.extend(rows.start for rows in ranges)
        return real(self, names, ranges, workers)

    monkeypatch.setattr(measuring.Measurer, "of_reference", noted)
    assert sorted(Run(planned, registry, Processes(1, 2))._own_reference(names)) == [10, 30] == measured
    measured.clear()
    result = run(registry, metrics="fid")
    assert measured == [0, 20] and cache_of(result)[1] == "miss"
    found, once = (json.loads(text)["fid"]["value"] for text in (block_of(result), expected))
    assert found == pytest.approx(once, rel=1e-9)  # other blocks, other rounding
    assert cache_of(run(registry, metrics="fid"))[1] == "hit"


def test_a_hit_loads_no_network(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    run(registry)
    for module in (spine, measuring):
        for name in ("load_sampler", "load_extractor"):
            monkeypatch.setattr(module, name, lambda *_: pytest.fail("a network was loaded"), raising=False)
    assert cache_of(run(registry)) == ("hit", "hit")


def test_a_narrower_request_uses_what_there_is(registry: Registry) -> None:
    whole = run(registry)
    narrow = run(registry, metrics="clip,fid")
    assert list(narrow.metrics) == ["clip_score", "fid"]
    assert cache_of(narrow) == ("hit", "hit")
    assert narrow.metrics["fid"] == whole.metrics["fid"]
    assert narrow.metrics["clip_score"] == whole.metrics["clip_score"]


def test_the_reference_is_shared_by_models(registry: Registry) -> None:
    first, second = run(registry), run(registry, "student")
    assert cache_of(second) == ("miss", "hit")
    assert first.suite.reference == second.suite.reference is not None
    assert len(second.suite.reference["fingerprint"]) == 64


@pytest.mark.ci
@pytest.mark.parametrize("change", ["weights", "guidance", "seed", "code", "extractor"])
def test_a_change_is_a_miss(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    catalog = write_tiny_suite(tmp_path / "own")
    own = Registry.load(catalog)
    before = run(own)
    assert cache_of(run(own)) == ("hit", "hit")
    options: dict[str, Any] = {}
    if change in {"weights", "extractor"}:
        folder = tmp_path / "own" / ("model/unet" if change == "weights" else "extractor")
        weights = next(folder.glob("*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-2] ^= 1
        weights.write_bytes(bytes(content))
    elif change == "guidance":
        options = {"guidance_scale": 2.5}
    elif change == "seed":
        options = {"seed": 1}
    else:
        monkeypatch.setattr("sbv2bench.provenance.measuring_fingerprint", lambda: "0" * 64)
    after = run(own, **options)
    assert cache_of(after) == ("miss", "miss" if change in {"code", "extractor"} else "hit")
    if change == "code":
        assert block_of(after) == block_of(before)
    if change == "extractor":
        changed = [key for key, metric in after.metrics.items() if metric.fingerprint != before.metrics[key].fingerprint]
        assert changed == ["fid", "precision", "recall", "density", "coverage", "kid", "attribute_accuracy"]


def test_a_corrupt_cache_is_a_miss_with_a_note(registry: Registry, home: Path) -> None:
    first = run(registry)
    for arrays in (home / "features").rglob("arrays.safetensors"):
        arrays.write_bytes(arrays.read_bytes()[:-3])
    again = run(registry)
    assert cache_of(again) == ("miss", "miss")
    # two references' and two captions' embeddings, the kept radii, and of the images a row for each of four extractors
    assert len(again.provenance["cache"]["notes"]) == len([*(home / "features").glob("*/manifest.json")]) == 8
    assert "broken" in again.provenance["cache"]["notes"][0]
    assert block_of(again) == block_of(first)
    assert cache_of(run(registry)) == ("hit", "hit")


def test_a_corrupt_block_is_made_again(registry: Registry, watch: Watch, home: Path) -> None:
    expected = block_of(run(registry, use_cache=False))
    watch(interrupt_after(3))
    with pytest.raises(InterruptedRun):
        run(registry)
    kept = {path.parent.name for path in (home / "features").glob("*.blocks/*/arrays.safetensors")}
    next((home / "features").glob(f"*.blocks/{min(kept)}/arrays.safetensors")).write_bytes(b"\0" * 10)
    watch(nothing)
    resumed = run(registry)
    assert resumed.resumed_images == (len(kept) - 1) * BLOCK
    assert len(resumed.provenance["cache"]["notes"]) == 1
    assert block_of(resumed) == expected
