"""What a run will cost: architectures counted from their configs alone, and an outline where files are missing."""

from __future__ import annotations

import io
import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from rich.console import Console

from sbv2bench.evaluation import costs
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.latency.architecture_flops import stage_gflop
from sbv2bench.registry import Registry
from sbv2bench.report import terminal
from sbv2bench.specs import ModelSpec


@pytest.fixture
def sd21_configs(tmp_path: Path) -> Path:
    """Stable Diffusion 2.1-base without a weight."""
    for part, source in (("unet", "sd21-base-unet"), ("text_encoder", "sd21-base-text_encoder"), ("vae", "sd-vae")):
        (tmp_path / part).mkdir()
        with files("reference_trainer.architectures").joinpath(f"{source}.json").open("rb") as stream:
            (tmp_path / part / "config.json").write_bytes(stream.read())
    return tmp_path


def spec_of(folder: Path, resolution: int | None = None) -> ModelSpec:
    return ModelSpec(id="local/it", sampler="multi_step", location=str(folder), resolution=resolution)


@pytest.mark.ci
def test_sd21_costs_what_others_have_counted(sd21_configs: Path) -> None:
    """Counted from its architecture: 804 GFLOP a UNet call at 512 px, 2,515 the decoder, 45 the text encoder."""
    found = stage_gflop(spec_of(sd21_configs), Registry.load())
    assert found == pytest.approx(costs.SD21_512, rel=0.01)
    smaller = stage_gflop(spec_of(sd21_configs, 256), Registry.load())
    assert 0.2 < smaller["denoise"] / found["denoise"] < 0.25  # convolutions fall to a quarter, attention to a sixteenth
    assert smaller["text"] == found["text"]


def test_what_is_no_stable_diffusion_has_no_figure(sd21_configs: Path) -> None:
    config = json.loads((sd21_configs / "unet" / "config.json").read_text())
    (sd21_configs / "unet" / "config.json").write_text(json.dumps(config | {"addition_embed_type": "text_time"}))
    assert stage_gflop(spec_of(sd21_configs), Registry.load()) == {}
    shutil.rmtree(sd21_configs / "vae")
    assert stage_gflop(spec_of(sd21_configs), Registry.load()) == {}


def test_a_merge_costs_what_its_ends_cost() -> None:
    registry = Registry.load()
    merged, teacher = (stage_gflop(registry.model(name), registry) for name in ("mini/sbv2-merged", "mini/sd21"))
    assert merged == teacher
    assert 0 < merged["text"] < merged["denoise"] < 1


def test_what_takes_a_parts_place_is_what_costs() -> None:
    registry = Registry.load()
    whole, tiny = (stage_gflop(registry.model(name), registry) for name in ("mini/sd-turbo", "mini/sd-turbo-taesd"))
    assert tiny["denoise"] == whole["denoise"] and 0 < tiny["decode"] < whole["decode"] / 2


def test_an_outline_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path))
    found = costs.outline("full/sd21", "coco2014-30k", EvalOptions.validated(limit=100, repeats=2), Registry.load())
    assert found["images"] == 200
    assert found["forward_passes"]["denoise"] == 200 * 25 * 2  # guided: two halves
    assert found["forward_passes"]["inception-2015-clean299"] == 200 + 40_504
    assert found["tflop"]["denoise"] == pytest.approx(200 * 50 * 0.804)
    assert any("asset:coco2014-val" in line for line in found["missing"])
    assert any("stable-diffusion-2-1-base" in line for line in found["missing"])
    assert found["estimated_seconds"]["networks"] > 0
    assert found["fits"] == {"none": None}  # of files that are not here


def test_what_fits_is_said_by_the_option_that_makes_it_fit() -> None:
    out = io.StringIO()
    terminal.print_plan(Console(file=out, width=200), {"fits": {"none": False, "model": True, "sequential": None}})
    assert "with --offload none no, with --offload model yes, with --offload sequential not known" in out.getvalue()


def test_weights_are_counted_as_they_are_held() -> None:
    registry = Registry.load()
    plans = [costs.outline("sd21", "mini", EvalOptions.validated(dtype=dtype), registry) for dtype in ("float32", "bfloat16")]
    held = [plan["memory_bytes"]["model_weights"] for plan in plans]
    assert held[0] == pytest.approx(2 * held[1], rel=1e-3)
    assert plans[0]["fits"] == {"none": True}
    assert plans[0]["missing"] == []


def test_the_time_of_a_plan_has_the_teachers_in_it() -> None:
    out = io.StringIO()
    own, teacher = ({"networks": seconds, "rate_gflops": 30.0, "unknown": []} for seconds in (60.0, 540.0))
    described = {"device": "cpu", "estimated_seconds": own, "teacher_cost": {"model": "mini/sd21", "estimated_seconds": teacher}}
    terminal.print_plan(Console(file=out, width=200), described)
    assert "about 10 minutes on this CPU, the teacher's about 9 minutes among them" in out.getvalue()
    assert "estimated seconds about 9 minutes, by a matrix product's 30 GFLOP/s" in out.getvalue()
