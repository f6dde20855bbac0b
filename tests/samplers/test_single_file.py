"""Whole models in one file: read by diffusers' own translation with a base's configs, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ldm_checkpoint
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from sbv2bench.data.chain import model_files
from sbv2bench.data.single_file import base_of, is_whole_model
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch


@pytest.fixture(scope="module")
def checkpoint(epsilon_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = StableDiffusionPipeline.from_pretrained(epsilon_folder, safety_checker=None)
    path = tmp_path_factory.mktemp("ldm") / "merged.safetensors"
    save_file(ldm_checkpoint.state_dict(pipeline), path)
    return path


def declared(tmp_path: Path, location: Path, base: Path, sampler: str = "pipeline") -> Registry:
    fields = f'{{sampler: {sampler}, location: "{location}", base: "{base}", steps: 3, guidance_scale: 2}}'
    folder = f'{{sampler: {sampler}, location: "{base}", steps: 3, guidance_scale: 2}}'
    (tmp_path / "own.yaml").write_text(f"models:\n  local/one: {fields}\n  local/many: {folder}\n")
    return Registry.load(tmp_path / "own.yaml")


@pytest.mark.ci
def test_the_images_are_those_of_the_folder(
    checkpoint: Path, epsilon_folder: Path, tmp_path: Path, make_block: Callable[..., PromptBlock]
) -> None:
    registry = declared(tmp_path, checkpoint, epsilon_folder)
    one, many = (load_model(name, registry=registry) for name in ("local/one", "local/many"))
    assert np.array_equal(one.generate(make_block(), Stopwatch()), many.generate(make_block(), Stopwatch()))
    hashed = [file.path for file in model_files(registry.model("local/one"), registry.model)]
    assert hashed[0] == "merged.safetensors" and f"{epsilon_folder}:unet/config.json" in hashed
    assert not any(path.startswith(str(epsilon_folder)) and path.endswith(".safetensors") for path in hashed)


@pytest.mark.ci
def test_a_pickle_needs_the_switch(
    checkpoint: Path,
    epsilon_folder: Path,
    tmp_path: Path,
    make_block: Callable[..., PromptBlock],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(epsilon_folder, safety_checker=None)
    torch.save({"state_dict": ldm_checkpoint.state_dict(pipeline)}, tmp_path / "old.ckpt")
    registry = declared(tmp_path, tmp_path / "old.ckpt", epsilon_folder)
    with pytest.raises(IntegrityError, match="SBV2BENCH_ALLOW_PICKLE=1"):
        load_model("local/one", registry=registry)
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    found = load_model("local/one", registry=registry).generate(make_block(), Stopwatch())
    registry = declared(tmp_path, checkpoint, epsilon_folder)
    assert np.array_equal(found, load_model("local/one", registry=registry).generate(make_block(), Stopwatch()))


def test_what_such_a_file_lacks_is_said(checkpoint: Path, epsilon_folder: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(epsilon_folder, safety_checker=None)
    whole = ldm_checkpoint.state_dict(pipeline)
    lost = {key: value for key, value in whole.items() if key != "model.diffusion_model.out.2.weight"}
    save_file(lost, tmp_path / "lost.safetensors")
    with pytest.raises(IntegrityError, match=r"lost\.safetensors"):
        load_model("local/one", registry=declared(tmp_path, tmp_path / "lost.safetensors", epsilon_folder))
    no_text = {key: value for key, value in whole.items() if not key.startswith("cond_stage_model")}
    save_file(no_text, tmp_path / "textless.safetensors")
    assert is_whole_model(checkpoint) and not is_whole_model(tmp_path / "textless.safetensors")
    with pytest.raises(InputError, match="a whole model in one file"):
        load_model(str(tmp_path / "textless.safetensors"))
    with pytest.raises(InputError, match="only `sampler: pipeline` can run"):
        load_model("local/one", registry=declared(tmp_path, checkpoint, epsilon_folder, "multi_step"))


@pytest.mark.parametrize(("width", "base"), [(768, "stable-diffusion-v1-5/"), (2048, "stable-diffusion-xl-base-1.0@")])
def test_the_kind_tells_whose_configs_are_needed(tmp_path: Path, width: int, base: str) -> None:
    path = tmp_path / "some.safetensors"
    probe = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({probe: torch.zeros(2, width), "first_stage_model.a": torch.zeros(1), "conditioner.b": torch.zeros(1)}, path)
    assert base in base_of(path)
    save_file({probe: torch.zeros(2, 5), "first_stage_model.a": torch.zeros(1), "conditioner.b": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not tell whose configs it needs"):
        base_of(path)
