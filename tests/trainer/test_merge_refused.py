"""`merge`: numbers that are none, configs that are none, and what both ends were trained with."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_ends import declare
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from reference_trainer.__main__ import app
from reference_trainer.merge import merge
from sbv2bench.data.training import trained_with
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.specs import ModelSpec

UNET = "unet/diffusion_pytorch_model.safetensors"


def changed(folder: Path, key: str, change: Any, file: str = UNET) -> Path:
    state = load_file(folder / file)
    state[key] = change(state[key])
    save_file(state, folder / file, metadata={"format": "pt"})
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_an_end_that_is_not_finite_is_refused(a: Path, copy_of_b: Path, tmp_path: Path, number: float, weight: float) -> None:
    def one(value: torch.Tensor) -> torch.Tensor:
        return value.flatten().index_fill(0, torch.tensor([1]), number).view_as(value)

    changed(copy_of_b, "conv_out.weight", one)
    for ends in ((a, copy_of_b), (copy_of_b, a)):
        with pytest.raises(IntegrityError, match=r"conv_out\.weight of .*/copy_of_b: 1 of its 1,152 numbers are not finite"):
            merge(str(ends[0]), str(ends[1]), weight, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["copy_of_b"]
    spec = ModelSpec(id="local/m", sampler="one_step", steps=1, merge={"a": str(a), "b": str(copy_of_b), "weight": 0.5})  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=r"conv_out\.weight of .*copy_of_b"):  # merged on load, by the catalog
        load_sampler(spec, "cpu", torch.float32, Registry.load())


def test_large_weights_are_finite_although_their_sum_is_not(a: Path, copy_of_b: Path, tmp_path: Path) -> None:
    changed(copy_of_b, "conv_out.weight", lambda value: torch.full_like(value, 3e38))
    merge(str(a), str(copy_of_b), 0.5, tmp_path / "m")
    assert load_file(tmp_path / "m" / UNET)["conv_out.weight"].isfinite().all()


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_half_floats_that_overflow_are_refused(a: Path, b: Path, tmp_path: Path, part: str) -> None:
    key, file = {
        "unet": ("conv_out.weight", UNET),
        "vae": ("decoder.conv_out.weight", "vae/diffusion_pytorch_model.safetensors"),
    }[part]
    ends = [Path(shutil.copytree(end, tmp_path / end.name)) for end in (a, b)]
    for end in ends:
        changed(end, key, lambda value: torch.full_like(value, 70000.0), file)
    found = CliRunner().invoke(
        app, ["merge", *map(str, ends), "--weight", "0.5", "--half", "--output", str(tmp_path / "m")], catch_exceptions=True
    )
    assert found.exit_code == 4
    assert found.stderr.startswith(f"error: merge --half: {key} of the merged model's {part} overflows float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    *_, advised = found.stderr.splitlines()[-1].partition("reference_trainer ")
    assert CliRunner().invoke(app, shlex.split(advised)).exit_code == 0
    assert float(load_file(tmp_path / "m" / file)[key].max()) == 70000.0


def test_what_trained_both_ends_and_their_licences_are_united(a: Path, b: Path, tmp_path: Path) -> None:
    captions = {"source": "captions.txt", "sha256": "ab", "captions": 3, "licence": "CC0"}
    of_a = {"losses": ["vsd"], "prompts": [captions]}
    of_b = {"losses": ["vsd", "hps"], "scorers": ["tiny-hps"], "prompts": [captions, {"source": "world:training"}]}
    first = declare(Path(shutil.copytree(a, tmp_path / "a")), licence="MIT; CC0", trained_with=of_a)
    second = declare(Path(shutil.copytree(b, tmp_path / "b")), licence="CC0; Apache-2.0", trained_with=of_b)
    spec = merge(str(first), str(second), 0.5, tmp_path / "m")
    written = json.loads((tmp_path / "m" / "sbv2bench.json").read_text())
    assert written["licence"] == spec.licence == "MIT; CC0; Apache-2.0"
    assert written["trained_with"] == of_b
    assert spec.trained_with is not None and spec.trained_with.has_hps()
    plain = merge(str(a), str(b), 0.5, tmp_path / "unsaid")
    assert plain.trained_with is None
    assert plain.model_copy(update={"trained_with": spec.trained_with}).fingerprint() == plain.fingerprint()
    registry = Registry.load()
    on_load = ModelSpec.model_validate(
        {"id": "x", "sampler": "one_step", "steps": 1, "merge": {"a": str(a), "b": str(second), "weight": 0.5}}
    )
    assert trained_with(on_load, registry.model) == spec.trained_with.model_copy(update={"losses": ("vsd", "hps")})


def test_a_folder_that_says_nonsense_of_its_training(a: Path, b: Path, tmp_path: Path) -> None:
    wrong = declare(Path(shutil.copytree(a, tmp_path / "a")), trained_with={"scorers": 7})
    with pytest.raises(InputError, match="trained_with"):
        merge(str(wrong), str(b), 0.5, tmp_path / "m")
    registry = Registry.load()
    registry.add("model", ModelSpec(id="mini/first", family="mini", sampler="one_step", location=str(wrong), steps=1))
    with pytest.raises(IntegrityError, match="trained_with: found"):
        merge("first", str(b), 0.5, tmp_path / "m", registry)


def test_the_parts_that_both_ends_share_must_be_finite_too(a: Path, b: Path, tmp_path: Path) -> None:
    ends = [Path(shutil.copytree(end, tmp_path / end.name)) for end in (a, b)]
    for end in ends:
        changed(end, "post_quant_conv.bias", lambda value: value * math.nan, "vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(IntegrityError, match=r"post_quant_conv\.bias of the merged model's vae"):
        merge(str(ends[0]), str(ends[1]), 0.5, tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize("content", ["[]", "3", '"words"', "null", "[" * 100_000])
@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json", "vae/config.json"])
def test_a_config_that_is_no_object_is_named(a: Path, copy_of_b: Path, tmp_path: Path, name: str, content: str) -> None:
    (copy_of_b / name).write_text(content)
    with pytest.raises(IntegrityError, match=f"{name}: found .*(expected a JSON object|not JSON)"):
        merge(str(a), str(copy_of_b), 0.5, tmp_path / "out")
