"""What can be known before a model is loaded: options that cannot be meant, models that cannot be timed, tiny decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.latency import plan as latency_plan
from sbv2bench.latency.plan import LatencyOptions, LatencyPlan, plan_latency, with_tiny_decoder
from sbv2bench.registry import Registry


def planned(*models: str, registry: Registry | None = None, **options: Any) -> LatencyPlan:
    return plan_latency(models, LatencyOptions.validated(**options), registry or Registry.load())


@pytest.mark.parametrize(
    ("options", "says", "fix"),
    [
        ({"protocol": "papr"}, r"--protocol: found 'papr', expected one of paper, full", "--protocol paper"),
        ({"protocol": "mine"}, r"--protocol: found 'mine'", None),
        ({"batch_sizes": (1, 0)}, r"--batch-size: found 0, expected a whole number from 1", "--batch-size 1"),
        ({"batch_sizes": (20_000,)}, r"--batch-size: found 20000", "--batch-size 1"),
        ({"protocol": "paper", "batch_sizes": (1, 8)}, r"--batch-size 8: protocol paper is batch 1", "--protocol full"),
        ({"protocol": "paper", "compiled": True}, r"--compile: protocol paper is .* not compiled", "--protocol full"),
        ({"device": "gpu"}, r"--device: found 'gpu'", "--device cuda"),
        ({"dtype": "fp16"}, r"--dtype: found 'fp16'", "--dtype float16"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], says: str, fix: str | None) -> None:
    with pytest.raises(InputError, match=says) as caught:
        LatencyOptions.validated(**options)
    assert caught.value.fix == fix
    assert len(caught.value.message.splitlines()) == 1


def test_options_that_can() -> None:
    assert LatencyOptions.validated().batch_sizes == (1,)
    assert LatencyOptions.validated(batch_sizes=(8, 1, 8)).batch_sizes == (8, 1)
    paper = LatencyOptions.validated(protocol="paper", batch_sizes=(1,)).protocol
    assert (paper.warm_up, paper.runs, paper.repeats, paper.seconds, paper.statistic) == (5, 50, 10, None, "mean")


@pytest.mark.parametrize(
    ("model", "options", "error", "says"),
    [
        ("full/gigagan", {}, PrerequisiteError, "only published numbers of it exist"),
        ("real", {}, InputError, "model mini/real: no network generates its images .*nothing to time"),
        ("pictures", {}, InputError, "model local/pictures: no network generates its images .*nothing to time"),
        ("sd12", {}, InputError, "unknown model 'sd12'"),
        ("sd-turbo", {"protocol": "paper", "device": "cpu", "dtype": "float16"}, InputError, "protocol paper is float32 on"),
        ("sd-turbo", {"results": "a-file/results"}, InputError, "--results: a-file/results cannot be written"),
    ],
)
def test_what_cannot_be_timed(model: str, options: dict[str, Any], error: type[SBV2BenchError], says: str) -> None:
    Path("pictures").mkdir()
    Image.new("RGB", (4, 4)).save("pictures/0.png")
    Path("a-file").write_text("")
    with pytest.raises(error, match=says) as caught:
        planned(model, **options)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(PrerequisiteError, match=r"--device cuda: torch sees no such device here") as caught:
        planned("sd-turbo", device="cuda")
    assert caught.value.exit_code == 3


def test_a_model_has_a_row_by_its_tiny_decoder() -> None:
    plan = planned("sd-turbo", "sd-turbo-taesd", "sbv2-merged", device="cpu")
    rows = [(row.id, row.vae) for row in plan.rows]
    assert rows == [
        ("mini/sd-turbo", ""), ("mini/sd-turbo-taesd", "package:mini/taesd"), ("mini/sbv2-merged", ""),
        ("mini/sbv2-merged", "package:mini/taesd"),
    ]  # fmt: skip
    assert all(row.weights for row in plan.rows)
    assert any("taesd" in file.path for file in plan.rows[3].weights)
    assert (plan.device, plan.dtype) == ("cpu", "float32")
    assert [row.id for row in planned("sd-turbo", protocol="paper", device="cpu").rows] == ["mini/sd-turbo"]


def test_which_decoder_is_tiny_the_catalog_says() -> None:
    registry = Registry.load()
    found = {name: with_tiny_decoder(registry.models[name], registry) for name in registry.models}
    names = {name: (spec.id, spec.vae.partition("@")[0]) for name, spec in found.items() if spec is not None}
    assert names["mini/sd21"] == ("mini/sd21", "package:mini/taesd")
    assert names["full/sd-turbo"] == ("full/sd-turbo-taesd", "hub:madebyollin/taesd")
    assert names["full/sd21"] == ("full/sd21", "hub:madebyollin/taesd")
    assert {"full/sdxl-turbo", "full/sd-turbo-taesd"} & set(names) == set()  # other latents; has it already


def test_a_decoder_that_nobody_asked_for_is_left_out_where_it_is_not_here(tmp_path: Path) -> None:
    model = {"sampler": "one_step", "location": "package:mini/sd-turbo", "base": "package:mini/sd21", "steps": 1}
    models = {"mine": model, "mine-tiny": model | {"vae": "home:nowhere"}}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"models": models}))
    registry = Registry.load(path)
    plan = planned("mine", registry=registry, device="cpu")
    assert [row.id for row in plan.rows] == ["local/mine"]
    assert any("local/mine with the tiny decoder home:nowhere is left out" in note for note in plan.notes)
    with pytest.raises(PrerequisiteError, match="nowhere"):
        planned("mine-tiny", registry=registry, device="cpu")


def test_what_a_reader_must_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_plan.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert planned("sd-turbo", device="cpu").notes == ()
    (cpu,) = planned("sd-turbo", protocol="paper", device="cpu").notes
    assert cpu.startswith("protocol paper is float16 on a GPU; this is float32 on the CPU")
    monkeypatch.setattr(latency_plan.os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    (busy,) = planned("sd-turbo", device="cpu").notes
    assert busy.startswith("this machine is busy (load 1000.0 on")
