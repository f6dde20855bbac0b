"""The spine: the same bits whatever the road, and a result that says what it is."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import Watched, block_of, cache_of, nothing, run
from tiny_suite import BLOCK, GENERATED, REFERENCE

import sbv2bench
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation import evaluate as spine
from sbv2bench.evaluation import gather
from sbv2bench.evaluation import measure as measuring
from sbv2bench.evaluation.evaluate import evaluate, evaluate_and_store
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.features.cache import FeatureCache
from sbv2bench.machine.processes import Processes
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult, ForwardPasses
from sbv2bench.samplers.base import PromptBlock
from sbv2bench.specs import fingerprint

Watch = Callable[[Callable[[PromptBlock, int], None]], list[Watched]]


def test_a_whole_result(registry: Registry) -> None:
    result = run(registry)
    assert result.status == "complete"
    assert list(result.metrics) == [
        "fid",
        "precision",
        "recall",
        "density",
        "coverage",
        "kid",
        "clip_score",
        "hps",
        "attribute_accuracy",
    ]
    assert all(np.isfinite(value.value) for value in result.metrics.values())
    assert result.metrics["fid"].value > 0
    assert result.metrics["fid"].n_reference == REFERENCE
    assert (result.suite.num_generated, result.suite.num_reference, result.suite.block_sizes) == (GENERATED, REFERENCE, (BLOCK,))
    assert (result.model.id, result.model.nfe, result.model.guidance_scale) == ("local/teacher", 3, 2.0)
    assert result.resumed_images == 0
    assert cache_of(result) == ("miss", "miss")
    assert (result.conditions.device, result.conditions.dtype) == ("cpu", "float32")
    assert set(result.conditions.libraries) == {"torch", "diffusers", "transformers", "peft", "open_clip", "pillow"}
    assert (result.kind, result.suite.images_per_prompt) == ("eval", 1)
    assert result.forward_passes == ForwardPasses(calls=3, rows_an_image=6.0)  # three steps, guided: one call of two rows each
    assert result.suite.reference is not None and set(result.suite.reference) == {"fingerprint", "rendered"}
    for key, value in result.metrics.items():
        assert value.fingerprint == fingerprint(result.protocol(key))
    assert result.seconds["generate"] > 0
    assert result.seconds["features"] > 0
    assert result.seconds["total"] >= result.seconds["generate"] + result.seconds["metrics"]
    assert EvalResult.model_validate_json(result.model_dump_json()) == result


def test_metrics_on_request_stand_beside_the_default_ones(registry: Registry) -> None:
    """Their labels say the patch's side; the default ones beside them are what they are alone."""
    result = run(registry, "student", metrics="fid,patch-fid,cmmd,clip")
    assert [value.label for value in result.metrics.values()] == [
        f"{name}-mini" for name in ("FID", "patch-FID-16px", "CMMD", "CLIP")
    ]
    assert [value.extractor for value in result.metrics.values()] == ["tiny-world", "world-128-patch16", "clip-mini", "tiny-clip"]
    alone = run(registry, "student", metrics="fid,clip", use_cache=False)
    assert {key: result.metrics[key] for key in ("fid", "clip_score")} == alone.metrics


def test_a_students_part_makes_the_images_of_the_whole(registry: Registry, catalog: Path, tmp_path: Path) -> None:
    whole = run(registry, "student")
    base = catalog.parent / "model"
    shutil.copytree(base / "unet", tmp_path / "part" / "unet")
    declared = {"id": "local/x", "sampler": "one_step", "steps": 1, "base": str(base)}
    (tmp_path / "part" / "sbv2bench.json").write_text(json.dumps(declared))
    part = run(registry, str(tmp_path / "part"))
    assert part.provenance["cache"]["generated"] == "miss"
    assert block_of(part) == block_of(whole)
    assert part.model.base == str(base)


@pytest.mark.ci
def test_models_and_seeds_give_other_numbers(registry: Registry) -> None:
    """What the equalities below stand against."""
    assert len({block_of(run(registry)), block_of(run(registry, "student")), block_of(run(registry, seed=1))}) == 3


def test_repeat_cache_hit_and_no_cache_are_bit_identical(registry: Registry, home: Path) -> None:
    first = run(registry)
    second = run(registry)
    assert cache_of(second) == ("hit", "hit")
    assert (second.seconds["generate"], second.seconds["features"]) == (0.0, 0.0)
    assert second.resumed_images == 0
    files = {path: path.read_bytes() for path in (home / "features").rglob("*") if path.is_file()}
    without = run(registry, use_cache=False)
    assert cache_of(without) == ("miss", "miss")
    assert {path: path.read_bytes() for path in (home / "features").rglob("*") if path.is_file()} == files
    assert block_of(first) == block_of(second) == block_of(without)


@pytest.mark.ci
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(registry: Registry, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(gather, "workers_on", lambda _: 1)
    alone = block_of(run(registry, use_cache=False))
    monkeypatch.setattr(gather, "workers_on", lambda _: workers)
    torch.set_num_threads(workers)
    assert block_of(run(registry, use_cache=False)) == alone
    assert torch.get_num_threads() == workers  # left as it was found
    torch.set_num_threads(1)


@pytest.mark.ci
def test_another_block_size_is_within_the_tolerance(registry: Registry, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Design 1.6: images equal but for 1 grey level in 0.1 % of values, FID within 1e-3."""
    images: dict[int, dict[int, np.ndarray]] = {}
    real = measuring.Measurer.measure

    def keep(self: Any, images_BHWC: np.ndarray, block: PromptBlock, names: Any) -> Any:
        kept = images.setdefault(len(block.captions), {})
        kept |= {block.first + row: images_BHWC[row] for row in range(block.count)}
        return real(self, images_BHWC, block, names)

    monkeypatch.setattr(measuring.Measurer, "measure", keep)
    base = run(registry)
    for size in (1, 5, 40):
        other = run(registry, batch_size=size, use_cache=False)
        assert other.suite.block_sizes == (size,)
        assert cache_of(other)[0] == "miss"
        assert other.metrics["fid"].fingerprint == base.metrics["fid"].fingerprint
        difference = np.abs(np.stack([images[size][i].astype(int) - images[BLOCK][i] for i in range(GENERATED)]))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1e-3
        assert other.metrics["fid"].value == pytest.approx(base.metrics["fid"].value, rel=1e-3)


def test_only_what_is_asked_for_is_computed(registry: Registry, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    real, loaded = measuring.load_extractor, []

    def load(spec: Any, device: str) -> Any:
        loaded.append(spec.id)
        return real(spec, device)

    monkeypatch.setattr(measuring, "load_extractor", load)
    for metrics, wanted in (
        ("fid,pr", {"tiny-world"}),
        ("clip", {"tiny-clip"}),
        ("attributes", {"tiny-attributes"}),
        ("hps", {"tiny-hps"}),
    ):
        loaded.clear()
        result = run(registry, "student", metrics=metrics, use_cache=False)
        assert set(loaded) == wanted
        if "fid" not in metrics:
            assert result.suite.num_reference is None
            assert result.suite.reference is None
            assert cache_of(result) == ("miss", "none")


def test_limit_is_partial_and_says_so(registry: Registry) -> None:
    result = run(registry, limit=20)
    assert result.status == "partial"
    assert result.metrics["fid"].label == "FID-mini@20"
    assert {value.n_generated for value in result.metrics.values()} == {20}
    assert result.suite.num_generated == 20
    whole = run(registry)
    assert whole.metrics["fid"].label == "FID-mini"
    assert whole.metrics["clip_score"].fingerprint != result.metrics["clip_score"].fingerprint


@pytest.mark.ci
def test_repeats(registry: Registry) -> None:
    singles = [run(registry, seed=seed) for seed in (4, 5)]
    both = run(registry, seed=4, repeats=2)
    assert both.suite.seeds == (4, 5)
    assert cache_of(both) == ("hit", "hit")
    for key, value in both.metrics.items():
        assert value.repeats == tuple(single.metrics[key].value for single in singles)
        assert value.ci95 is not None or len(set(value.repeats)) == 1  # which tells nothing of how far they scatter
    more = run(registry, seed=4, repeats=3)
    assert (cache_of(more)[0], more.resumed_images) == ("resumed", 2 * GENERATED)


def uncut(result: EvalResult) -> EvalResult:
    """Without what says how much of the captions was read."""
    metrics = {}
    for key, value in result.metrics.items():
        details = {name: detail for name, detail in (value.details or {}).items() if name != "cut_captions"}
        metrics[key] = value.model_copy(update={"details": details or None})
    return result.model_copy(update={"metrics": metrics})


def test_stored_result_and_images(registry: Registry, tmp_path: Path) -> None:
    options = EvalOptions.validated(results=tmp_path / "results", save_images="all")
    result, path = evaluate_and_store(plan("teacher", "tiny", options, registry), registry)
    assert path is not None
    assert store.find(tmp_path / "results") == [path]
    assert store.load(path) == result
    folder = path.with_name(f"{path.stem}-images")
    assert len(list(folder.iterdir())) == GENERATED
    # images saved by a run that needed none of them for its metrics are the same images
    again, second = evaluate_and_store(plan("teacher", "tiny", options, registry), registry)
    assert second is not None
    assert cache_of(again) == ("hit", "hit")
    other = second.with_name(f"{second.stem}-images")
    assert other != folder
    assert [image.read_bytes() for image in sorted(other.iterdir())] == [image.read_bytes() for image in sorted(folder.iterdir())]
    # and a folder of them is a model with the same numbers
    from_folder = evaluate(folder, "tiny", registry=registry)
    assert from_folder.model.sampler == "image_folder"
    assert result.metrics["fid"].details == {"cut_captions": {"the model's text_encoder": {"captions": GENERATED, "tokens": 16}}}
    assert block_of(uncut(from_folder)) == block_of(uncut(result))  # a folder has no text encoder that could cut captions
    assert from_folder.model.nfe == 0


def test_a_broken_image_names_its_file(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (GENERATED, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"{number}.png")
    broken = folder / "17.png"
    broken.write_bytes(broken.read_bytes()[:1500])
    with pytest.raises(IntegrityError, match=r"17\.png"):
        evaluate(folder, "tiny", registry=registry)
    big = tmp_path / "big"
    big.mkdir()
    for number in range(GENERATED):
        Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(big / f"{number}.png")
    with pytest.raises(InputError, match="found images of 48 px, expected 32 px"):
        evaluate(big, "tiny", registry=registry)


def test_latency_comes_when_asked_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbv2bench.latency.quick.MOST_RUNS", 3)
    monkeypatch.setattr("sbv2bench.latency.quick.SECONDS", 1e6)
    result = run(registry, "student", metrics="clip,latency")
    latency = result.metrics["latency_ms"]
    assert latency.value > 0
    assert latency.details is not None
    assert latency.details["runs"] == latency.n_generated == 3
    assert latency.details["p5_ms"] <= latency.value <= latency.details["p95_ms"]
    stages = latency.details["stages_ms"]
    assert stages.keys() == {"text", "denoise", "decode"}
    assert min(stages.values()) > 0
    assert set(result.metrics) == {"clip_score", "latency_ms"}


@pytest.mark.ci
def test_latency_keeps_its_time_and_samples_nothing_else(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    monkeypatch.setattr("sbv2bench.latency.quick.SECONDS", 0.3)
    blocks: list[PromptBlock] = []

    def slowly(block: PromptBlock, begun: int) -> None:
        blocks.append(block)
        time.sleep(0.1)

    watch(slowly)
    result = run(registry, "student", metrics="latency")
    found = result.metrics["latency_ms"]
    assert list(result.metrics) == ["latency_ms"]
    assert cache_of(result) == ("none", "none")
    assert 1 <= found.n_generated <= 3
    assert found.value > 100
    assert len(blocks) == found.n_generated + 1  # and the warm-up
    assert {len(block.captions) for block in blocks} == {1}


class SecondOfTwo(Processes):
    """Rank 1 of 2, with nobody at the other end."""

    def broadcast(self, value: Any) -> Any:
        return ("tiny-world", "tiny-clip")  # what rank 0 lacks

    def gather(self, value: Any) -> list[Any]:
        self.__dict__["sent"] = value
        return []


def test_a_process_makes_its_own_blocks_only(registry: Registry, watch: Watch, home: Path) -> None:
    loaded = watch(nothing)
    planned = plan("student", "tiny", EvalOptions.validated(metrics="fid,clip"), registry)
    processes, steps = SecondOfTwo(rank=1, size=2), []
    rows = spine.Run(planned, registry, processes, lambda *step: steps.append(step)).rows_of((0, 0))
    assert rows == {}  # they are on rank 0
    assert loaded[0].begun == 2
    assert FeatureCache(home / "features").block_numbers(planned.generated_key("tiny-clip", 0)) == [BLOCK, 3 * BLOCK]
    assert sorted(processes.__dict__["sent"][0]) == [BLOCK, 3 * BLOCK]
    assert steps[-1] == ("generate", 2 * BLOCK, 2 * BLOCK)


def test_python_api(catalog: Path) -> None:
    assert sbv2bench.evaluate is evaluate
    result = sbv2bench.evaluate("student", "tiny", catalog=catalog, metrics=("fid",), limit=12)
    assert list(result.metrics) == ["fid"]
    with pytest.raises(InputError, match="--limit"):
        sbv2bench.evaluate("student", "tiny", catalog=catalog, limit=-5)
