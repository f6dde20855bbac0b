"""load_sampler and load_model: kinds, merges, adapters, parts from a base model, plugins' samplers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import write_tiny_adapter, write_tiny_pipeline, write_tiny_student

import sbv2bench
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model, load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, initial_noise
from sbv2bench.samplers.components import load_unet
from sbv2bench.samplers.image_folder import ImageFolderSampler
from sbv2bench.samplers.multi_step import MultiStepSampler
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.samplers.one_step import OneStepSampler
from sbv2bench.samplers.pipeline import PipelineSampler
from sbv2bench.specs import MergeSpec, ModelSpec, SamplerSpec

Make = Callable[..., PromptBlock]


def one_step(folder: Path | str = "", **fields: Any) -> ModelSpec:
    return ModelSpec(id="local/tiny", sampler="one_step", location=str(folder), steps=1, **fields)


def load(spec: ModelSpec, registry: Registry | None = None) -> Any:
    return load_sampler(spec, "cpu", torch.float32, registry)


@pytest.fixture(scope="module")
def other_folder(v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-step student of the v model: another UNet, the same other parts."""
    folder = write_tiny_student(tmp_path_factory.mktemp("models") / "other", v_folder, seed=5)
    declared = one_step(guidance_scale=1.0).model_dump(mode="json", exclude={"id", "family", "location"})
    (folder / "sbv2bench.json").write_text(json.dumps({**declared, "id": "local/x"}))
    return folder


def test_every_kind_has_its_sampler(v_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    kinds = {"multi_step": MultiStepSampler, "one_step": OneStepSampler, "pipeline": PipelineSampler}
    for kind, expected in kinds.items():
        assert type(load(ModelSpec(id="local/x", sampler=kind, location=str(v_folder)))) is expected
    assert type(load(ModelSpec(id="local/x", sampler="image_folder", location=str(tmp_path)))) is ImageFolderSampler
    with pytest.raises(PrerequisiteError, match="only published numbers"):
        load(ModelSpec(id="full/x", family="full", sampler="published"))
    with pytest.raises(InputError, match="multi_stp"):
        load(ModelSpec(id="local/x", sampler="multi_stp", location=str(v_folder)))


def test_a_sampler_of_somebody_elses(v_folder: Path) -> None:
    registry = Registry.load()
    registry.add("sampler", SamplerSpec(id="mine", target="sbv2bench.samplers.one_step:OneStepSampler"))
    registry.add("sampler", SamplerSpec(id="broken", target="sbv2bench.no_such_module:X"))
    assert type(load(ModelSpec(id="local/x", sampler="mine", location=str(v_folder)), registry)) is OneStepSampler
    with pytest.raises(InputError, match="no_such_module"):
        load(ModelSpec(id="local/x", sampler="broken", location=str(v_folder)), registry)


def test_load_model_by_folder(v_folder: Path, other_folder: Path, make_block: Make) -> None:
    by_defaults = load_model(v_folder)
    assert type(by_defaults) is PipelineSampler
    student = sbv2bench.load_model(str(other_folder))
    assert type(student) is OneStepSampler
    images = student.generate(make_block(), Stopwatch())
    assert np.array_equal(images, load(one_step(other_folder)).generate(make_block(), Stopwatch()))
    with pytest.raises(InputError):
        load_model("no-such-model-anywhere")


@pytest.mark.weights
def test_the_shipped_teacher_by_its_id(make_block: Make) -> None:
    teacher = load_model("sd21")
    assert teacher.spec.id == "mini/sd21"
    assert isinstance(teacher, MultiStepSampler)
    block = make_block(count=2)
    pipeline = teacher.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(generators(block.noise_seeds), teacher.components.latent_shape)
    steps, scale = teacher.spec.steps, teacher.spec.guidance_scale
    images = pipeline(
        list(block.captions), num_inference_steps=steps, guidance_scale=scale, latents=noise, output_type="np"
    ).images
    assert np.abs(teacher.generate(block, Stopwatch()) - 255 * images).max() <= 0.51


def unet_of(folder: Path) -> dict[str, torch.Tensor]:
    return UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_merge_is_made_on_load(v_folder: Path, other_folder: Path, make_block: Make, weight: float) -> None:
    registry = Registry.load()
    registry.add("model", ModelSpec(id="mini/a", family="mini", sampler="one_step", location=str(v_folder), steps=1))
    merged = load(one_step(merge=MergeSpec(a="mini/a", b=str(other_folder), weight=weight)), registry)
    a, b, state = unet_of(v_folder), unet_of(other_folder), merged.components.unet.state_dict()
    for key, value in state.items():
        torch.testing.assert_close(value, weight * a[key] + (1 - weight) * b[key], rtol=0, atol=1e-7)
    if weight in {0.0, 1.0}:
        end = a if weight == 1.0 else b
        assert all(torch.equal(value, end[key]) for key, value in state.items())
    if weight == 1.0:  # the other parts are a's
        alone = load(one_step(v_folder)).generate(make_block(), Stopwatch())
        assert np.array_equal(merged.generate(make_block(), Stopwatch()), alone)


def test_a_merge_takes_its_other_parts_from_its_own_location(v_folder: Path, other_folder: Path, tmp_path: Path) -> None:
    merge = MergeSpec(a=str(v_folder), b=str(other_folder), weight=0.5)
    third = write_tiny_pipeline(tmp_path / "third", seed=6)
    for location, expected in (("", v_folder), (third, third)):
        parts = load(one_step(location, merge=merge)).components
        assert torch.equal(
            parts.text_encoder.state_dict()["embeddings.token_embedding.weight"],
            load(one_step(expected)).components.text_encoder.state_dict()["embeddings.token_embedding.weight"],
        )


def test_a_merge_of_models_that_do_not_fit_is_refused(
    v_folder: Path, other_folder: Path, epsilon_folder: Path, tmp_path: Path
) -> None:
    narrow = write_tiny_student(tmp_path / "narrow", v_folder, seed=1)
    shutil.rmtree(narrow / "unet")
    shutil.copytree(epsilon_folder / "unet", narrow / "unet")
    with pytest.raises(IntegrityError, match="another shape"):
        load(one_step(merge=MergeSpec(a=str(v_folder), b=str(narrow), weight=0.5)))
    for part in ("vae", "text_encoder"):
        foreign = Path(shutil.copytree(other_folder, tmp_path / part))
        shutil.rmtree(foreign / part)
        shutil.copytree(write_tiny_pipeline(tmp_path / f"{part} of", seed=6) / part, foreign / part)
        with pytest.raises(IntegrityError, match=f"different weights of {part} ") as caught:
            load(one_step(merge=MergeSpec(a=str(v_folder), b=str(foreign), weight=0.5)))
        assert str(foreign) in str(caught.value)
    with pytest.raises(InputError, match="cannot merge"):
        merge = MergeSpec(a=str(v_folder), b=str(v_folder), weight=0.5)
        load(ModelSpec(id="local/x", sampler="pipeline", merge=merge))


def test_an_adapter_is_folded_into_its_bases_unet(v_folder: Path, tmp_path: Path, make_block: Make) -> None:
    """A LoRA student's folder holds the adapter in peft's layout; the rest is its base model's."""
    adapted = write_tiny_adapter(tmp_path, UNet2DConditionModel.from_pretrained(v_folder / "unet"), str(v_folder))
    student = load(one_step(tmp_path))
    inputs = torch.randn(1, 8, 8, 8), 999, torch.randn(1, 4, 16)
    with torch.no_grad():
        expected = adapted.eval()(*inputs).sample
        torch.testing.assert_close(student.components.unet(*inputs).sample, expected, rtol=1e-4, atol=1e-4)
        assert float((expected - load(one_step(v_folder)).components.unet(*inputs).sample).abs().max()) > 0.01
    assert student.generate(make_block(), Stopwatch()).shape == (4, 32, 32, 3)
    (tmp_path / "unet_lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(PrerequisiteError):
        load(one_step(tmp_path))


def test_an_adapter_on_an_adapters_model_is_folded_in_after_it(v_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    inner = write_tiny_adapter(first, UNet2DConditionModel.from_pretrained(v_folder / "unet"), str(v_folder), seed=1)
    outer = write_tiny_adapter(second, inner.merge_and_unload(), "../first", seed=2)
    inputs = torch.randn(1, 8, 8, 8), 999, torch.randn(1, 4, 16)
    with torch.no_grad():
        expected = outer(*inputs).sample
        torch.testing.assert_close(load_unet(one_step(second), torch.float32)(*inputs).sample, expected, rtol=1e-4, atol=1e-4)
        for other in (first, v_folder):
            assert float((load_unet(one_step(other), torch.float32)(*inputs).sample - expected).abs().max()) > 0.01
    assert load_unet(one_step(second), torch.float16).dtype == torch.float16


def test_an_adapter_that_does_not_fit_its_base_is_refused(v_folder: Path, epsilon_folder: Path, tmp_path: Path) -> None:
    write_tiny_adapter(tmp_path, UNet2DConditionModel.from_pretrained(v_folder / "unet"), str(epsilon_folder))
    load(one_step(tmp_path))  # none of its layers sees the number of latent channels
    config = tmp_path / "unet_lora" / "adapter_config.json"
    weights = config.with_name("adapter_model.safetensors")
    state = load_file(weights)
    narrow = {key: value[:, :-1].contiguous() if "lora_A" in key else value for key, value in state.items()}
    save_file(narrow, weights)
    with pytest.raises(InputError, match=r"is of a weight \(16, 15\), found \(16, 16\)") as caught:
        load(one_step(tmp_path))
    assert str(epsilon_folder / "unet") in str(caught.value)


def write_students_part(folder: Path, unet: Path, base: str) -> Path:
    shutil.copytree(unet, folder / "unet")
    (folder / "sbv2bench.json").write_text(json.dumps({"id": "local/x", "sampler": "one_step", "steps": 1, "base": base}))
    return folder


def test_a_students_folder_may_hold_its_unet_alone(v_folder: Path, other_folder: Path, tmp_path: Path, make_block: Make) -> None:
    shutil.copytree(other_folder / "unet", tmp_path / "unet")
    with pytest.raises(InputError, match=r"model_index\.json"):
        load(one_step(tmp_path))
    student = load(one_step(tmp_path, base=str(v_folder)))
    state = student.components.unet.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in unet_of(other_folder).items())
    assert student.generate(make_block(), Stopwatch()).shape == (4, 32, 32, 3)


def test_each_part_is_the_first_folders_of_the_chain_that_has_it(
    v_folder: Path, other_folder: Path, tmp_path: Path, make_block: Make
) -> None:
    """unet -> its base, which has a text encoder besides -> its base, a whole model."""
    middle = write_students_part(tmp_path / "middle", v_folder / "unet", str(v_folder))
    shutil.copytree(other_folder / "text_encoder", middle / "text_encoder")
    student = load_model(write_students_part(tmp_path / "student", other_folder / "unet", "../middle"))
    assert isinstance(student, OneStepSampler)
    parts, a, b = student.components, load(one_step(v_folder)).components, load(one_step(other_folder)).components
    for part, first in (("unet", b), ("text_encoder", b), ("vae", a)):
        state, expected = getattr(parts, part).state_dict(), getattr(first, part).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in state.items()), part
    assert student.generate(make_block(), Stopwatch()).shape == (4, 32, 32, 3)
    cut = middle / "unet" / "diffusion_pytorch_model.safetensors"  # not needed, and proved all the same
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError, match="the file was cut"):
        load_model(tmp_path / "student")
    cut.write_bytes(whole)
    shutil.rmtree(tmp_path / "student" / "unet")
    with pytest.raises(PrerequisiteError, match="no weights found"):
        load_model(tmp_path / "student")


def test_parts_can_be_read_one_by_one(v_folder: Path, tmp_path: Path) -> None:
    """What a trainer needs of a model that supplies only its UNet, its text encoder or its schedule."""
    student = StoredModel.find(one_step(write_students_part(tmp_path / "s", v_folder / "unet", str(v_folder))))
    whole = load(one_step(v_folder)).components
    for part in ("unet", "vae", "text_encoder"):
        state = getattr(student, part)(torch.float32).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in getattr(whole, part).state_dict().items())
    assert student.tokenizer()("red").input_ids == whole.tokenizer("red").input_ids
    assert student.scheduler().config == whole.scheduler.config
    assert student.prediction_type(student.scheduler()) == "v_prediction"
    assert load_unet(one_step(v_folder), torch.bfloat16).dtype == torch.bfloat16


def test_importing_the_room_needs_no_torch() -> None:
    """`sbv2bench.load_model` is named at the top of the package."""
    code = "import sys, sbv2bench.samplers; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
