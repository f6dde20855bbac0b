"""The main job with the weights that ship: it runs, it tells a trained model from a random one, and both from real pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sbv2bench import paths
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.results import store

pytestmark = [pytest.mark.weights, pytest.mark.timeout(900)]
SUITE = {
    "extends": "mini",
    "caption_offset": 900_000,
    "num_generated": 200,
    "num_reference": 400,
    "metrics": ["fid", "clip", "hps", "attributes"],
}


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SBV2BENCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({"suites": {"control": SUITE}}))
    return path


def write_random_twin(folder: Path) -> Path:
    """The teacher's folder with a UNet of the same shape that was never trained."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    pipeline = StableDiffusionPipeline.from_pretrained(paths.package_weights() / "sd21").to(torch.float32)
    torch.manual_seed(0)
    pipeline.unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    pipeline.save_pretrained(folder)
    spec = {"id": "local/random", "sampler": "multi_step", "guidance_scale": 2.0}
    (folder / "sbv2bench.json").write_text(json.dumps(spec))
    return folder


@pytest.mark.ci
def test_trained_random_and_real_are_far_apart(catalog: Path, tmp_path: Path) -> None:
    """The negative control: random weights score at least three times the teacher's FID; real pictures score far below it."""
    teacher = evaluate("sd21", "control", catalog=catalog, steps=10)
    random = evaluate(write_random_twin(tmp_path / "random"), "control", catalog=catalog, steps=10)
    real = evaluate("real", "control", catalog=catalog)
    fid = {result.model.id: result.metrics["fid"].value for result in (teacher, random, real)}
    assert fid["local/random"] >= 3 * fid["mini/sd21"], fid
    assert fid["mini/sd21"] > fid["mini/real"], fid
    for key in ("clip_score", "hps", "attribute_accuracy"):
        values = [result.metrics[key].value for result in (random, teacher, real)]
        assert values[0] < values[1], (key, values)
    assert real.metrics["attribute_accuracy"].value > 0.8
    assert random.metrics["attribute_accuracy"].value < 0.2


@pytest.mark.ci
def test_main_job_in_an_empty_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "SBV2BENCH_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    options = ["--limit", "60", "--metrics", "fid,pr,kid,clip,hps,attributes", "--save-images", "sample", "--json"]  # no clock
    command = [sys.executable, "-m", "sbv2bench", "eval", "--model", "sd21", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (path,) = store.find(tmp_path / "results")
    assert store.load(path).model_dump(mode="json") == result
    assert path.relative_to(tmp_path / "results").parts[:3] == ("mini", "sd21", "mini@v1")
    assert result["status"] == "partial"
    assert result["metrics"]["fid"]["label"] == "FID-mini@60"
    assert len(result["metrics"]) == 9
    assert "suite mini@v1" in done.stderr.splitlines()[0]
    images = [np.asarray(Image.open(image)) for image in sorted(path.with_name(f"{path.stem}-images").iterdir())]
    assert len(images) == 32
    assert np.stack(images).std() > 20  # pictures, not a flat grey
