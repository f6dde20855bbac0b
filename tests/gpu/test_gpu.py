"""What must hold on a GPU, by the figures of `check.sh`, which runs these tests at its end: OUT names the folder of gpu.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
RUNS = [("A", "recipe"), ("A", "ema_on_cpu"), ("A", "without_checkpointing"), ("A", "adamw8bit")]
RUNS += [("B", name) for _, name in RUNS]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    path = Path(os.environ.get("OUT", "")) / "gpu.json"
    if not path.is_file():
        pytest.skip("no gpu.json in the folder that OUT names: tests/gpu/check.sh measures, then asserts")
    found = json.loads(path.read_text("utf-8"))
    if found["device"]["kind"] != "cuda":
        pytest.skip("these figures are of no GPU")
    return found["parts"]


def figures(parts: dict[str, Any], *path: str) -> Any:
    """Figures at a path; skipped where what they need is not there, failed where measuring them did."""
    found: Any = parts
    for name in path:
        assert name in found, f"{'.'.join(path)} was not measured: {found.get('error', 'out of time')}"
        found = found[name]
        if isinstance(found, dict) and "not_run" in found:
            pytest.skip(f"{'.'.join(path)}: {found['not_run']}")
        assert not (isinstance(found, dict) and "error" in found), found["error"]
    return found


@pytest.mark.parametrize(("model", "run"), RUNS)
def test_losses_are_numbers(parts: dict[str, Any], model: str, run: str) -> None:
    assert figures(parts, "training", model, run)["finite"]


@pytest.mark.parametrize(("model", "run"), RUNS)
def test_memory_is_what_show_predicts(parts: dict[str, Any], model: str, run: str) -> None:
    assert figures(parts, "training", model, run)["peak_over_predicted"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("model", ["A", "B"])
def test_a_resumed_run_has_the_losses_of_the_one_that_went_on(parts: dict[str, Any], model: str) -> None:
    """Kernels may round otherwise; another draw of noise, or lost moments, would be tens of percent away."""
    found = figures(parts, "training", model, "recipe")
    assert found["resume"]["losses_differ_by"] < 0.02
    assert found["checkpoint"]["bytes"] == pytest.approx(found["checkpoint"]["predicted_bytes"], rel=0.05)


@pytest.mark.parametrize("extractor", ["inception", "clip", "hpsv2"])
def test_features_are_those_of_a_cpu(parts: dict[str, Any], extractor: str) -> None:
    """Both in float32 without TF32."""
    found = figures(parts, "evaluation", "features", extractor)["relative_difference"]
    assert max(found.values()) < 1e-3


def test_the_evaluation_gives_numbers(parts: dict[str, Any]) -> None:
    assert figures(parts, "evaluation", "run")["finite"]


@pytest.mark.parametrize("name", ["sd3", "sdxl"])
def test_pipelines_run_in_bfloat16(parts: dict[str, Any], name: str) -> None:
    found = figures(parts, "pipelines", name)
    assert found["dtypes"] == ["bfloat16"] and found["deviation_of_pixels"] > 0


def test_the_rung_s_curve_is_of_numbers(parts: dict[str, Any]) -> None:
    found = figures(parts, "rung", "run")
    assert found["finite"] and len(found["curve"]["loss"]) > 1
