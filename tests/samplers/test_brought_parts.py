"""What a student's folder brings takes the place of its base's part, by whatever sampler: the same pictures from each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from tiny_models import write_tiny_pipeline, write_tiny_sdxl, write_tiny_student

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]
NETWORK = "unet/diffusion_pytorch_model.safetensors"


def spec(location: Path, base: Path | str = "", sampler: str = "pipeline", **fields: Any) -> ModelSpec:
    chosen = {"steps": 2, "guidance_scale": 3.0} | fields
    return ModelSpec(id="local/x", sampler=sampler, location=str(location), base=str(base), **chosen)


def images_of(model: ModelSpec, block: PromptBlock, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return np.asarray(load_sampler(model, "cpu", dtype).generate(block, Stopwatch()))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of which every part is another than v_folder's: its scheduler predicts epsilon."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("brought") / "other", "epsilon", seed=7)


def laid_over(base: Path, parts: Path, names: tuple[str, ...], to: Path) -> Path:
    """A whole copy of the base in which the parts are others: what a student's folder on it means."""
    whole = Path(shutil.copytree(base, to))
    for name in names:
        shutil.rmtree(whole / name)
        shutil.copytree(parts / name, whole / name)
    return whole


BROUGHT = [("unet",), ("vae",), ("text_encoder",), ("scheduler",), ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
SAMPLERS = ("one_step", "multi_step", "pipeline", "rectified_flow")  # the last reads no scheduler
CASES = [(names, sampler) for names in BROUGHT for sampler in SAMPLERS if (names, sampler) != (("scheduler",), "rectified_flow")]


@pytest.mark.ci
@pytest.mark.parametrize("case", CASES)
def test_every_part_that_a_folder_brings_is_used(
    v_folder: Path, other: Path, tmp_path: Path, make_block: Make, case: tuple[tuple[str, ...], str]
) -> None:
    names, sampler = case
    for name in names:
        shutil.copytree(other / name, tmp_path / "student" / name)
    if names == ("scheduler",):  # a folder of a scheduler alone has no weights, and is not a model's
        shutil.copytree(v_folder / "unet", tmp_path / "student" / "unet")
    steps = 1 if sampler == "one_step" else 2
    whole = laid_over(v_folder, other, names, tmp_path / "whole")
    expected = images_of(spec(whole, sampler=sampler, steps=steps), make_block())
    found = images_of(spec(tmp_path / "student", v_folder, sampler, steps=steps), make_block())
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, images_of(spec(v_folder, sampler=sampler, steps=steps), make_block()))


def test_a_tokenizer_that_a_folder_brings(v_folder: Path, tmp_path: Path, make_block: Make) -> None:
    student = write_tiny_student(tmp_path / "whole", v_folder, seed=5)
    shorter = json.loads((student / "tokenizer" / "tokenizer_config.json").read_text()) | {"model_max_length": 4}
    (student / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(shorter))
    for name in ("unet", "tokenizer"):
        shutil.copytree(student / name, tmp_path / "student" / name)
    for sampler in ("multi_step", "pipeline"):
        found = images_of(spec(tmp_path / "student", v_folder, sampler), make_block())
        assert np.array_equal(found, images_of(spec(student, sampler=sampler), make_block()))
        full = images_of(spec(student / "unet", v_folder, sampler, holds="unet"), make_block())
        assert not np.array_equal(found, full)


@pytest.mark.parametrize("sampler", ["multi_step", "pipeline"])
def test_parts_that_do_not_fit_each_other(v_folder: Path, epsilon_folder: Path, tmp_path: Path, sampler: str) -> None:
    shutil.copytree(epsilon_folder / "vae", tmp_path / "student" / "vae")  # of 4 channels, on 8
    with pytest.raises(InputError, match=rf"{v_folder}/unet makes 8 latent channels and {tmp_path}/student/vae decodes 4"):
        load_sampler(spec(tmp_path / "student", v_folder, sampler), "cpu", torch.float32)


@pytest.mark.parametrize("sampler", ["one_step", "pipeline"])
def test_a_text_encoder_of_sdxl_is_replaced_or_refused(v_folder: Path, tmp_path: Path, make_block: Make, sampler: str) -> None:
    base, donor = write_tiny_sdxl(tmp_path / "base"), write_tiny_sdxl(tmp_path / "donor", seed=9)
    shutil.copytree(donor / "text_encoder_2", tmp_path / "student" / "text_encoder_2")
    if sampler == "one_step":
        with pytest.raises(InputError, match="text_encoder_2"):
            load_sampler(spec(tmp_path / "student", base, sampler, steps=1), "cpu", torch.float32)
        with pytest.raises(InputError, match=r"student/text_encoder_2: StableDiffusionPipeline .* has no text_encoder_2"):
            load_sampler(spec(tmp_path / "student", v_folder, sampler, steps=1), "cpu", torch.float32)
        return
    whole = laid_over(base, donor, ("text_encoder_2",), tmp_path / "whole")
    found = images_of(spec(tmp_path / "student", base), make_block())
    assert np.array_equal(found, images_of(spec(whole), make_block()))
    assert not np.array_equal(found, images_of(spec(base), make_block()))


def test_settings_that_a_sampler_does_not_read_are_refused(v_folder: Path, tmp_path: Path) -> None:
    one = {"scheduler": "ddim", "timesteps": (999,), "timestep_spacing": "trailing"}
    many: dict[str, Any] = {"timestep": 500, "alpha_T": 0.5, "input_scaling": "sigma"}
    for sampler, fields in (("one_step", one), ("rectified_flow", one | many), ("multi_step", many), ("pipeline", many)):
        for name, value in fields.items():
            with pytest.raises(InputError, match=f"{name} is .* `sampler: {sampler}` does not use"):
                load_sampler(spec(v_folder, sampler=sampler, steps=1, **{name: value}), "cpu", torch.float32)


# The names that training programs put before a UNet's.
WRAPPED = {
    "a pipeline's": "unet.{}",
    "an average's": "unet_ema.{}",
    "data parallel": "module.{}",
    "compiled": "_orig_mod.{}",
    "compiled under data parallel": "module._orig_mod.{}",
    "peft": "base_model.model.{}",
    "all at once": "unet.module._orig_mod.base_model.model.{}",
}


@pytest.fixture(scope="module")
def state(v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return load_file(write_tiny_student(tmp_path_factory.mktemp("names") / "student", v_folder, seed=5) / NETWORK)


@pytest.mark.ci
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("sampler", ["multi_step", "pipeline"])
def test_a_unets_names_behind_a_wrappers(
    v_folder: Path, state: dict[str, torch.Tensor], tmp_path: Path, name: str, sampler: str
) -> None:
    save_file({WRAPPED[name].format(key): value for key, value in state.items()}, tmp_path / "u.safetensors")
    loaded: Any = load_sampler(spec(tmp_path / "u.safetensors", v_folder, sampler, holds="unet"), "cpu", torch.float32)
    unet = loaded.networks()["unet"]
    assert all(torch.equal(value, state[key]) for key, value in unet.state_dict().items())


def test_a_part_that_was_compiled_alone(v_folder: Path, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    renamed = {key.replace("mid_block.", "mid_block._orig_mod."): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "u.safetensors")
    load_sampler(spec(tmp_path / "u.safetensors", v_folder, holds="unet"), "cpu", torch.float32)


def test_names_that_say_more_than_one_unet(v_folder: Path, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    raw = {f"unet.{key}": value for key, value in state.items()}
    lora = {"unet.conv_in.lora_A.weight": torch.ones(2, 2)}
    cases = {
        "raw .unet.. and averaged .unet_ema..": raw | {f"unet_ema.{key}": value.clone() for key, value in state.items()},
        "a LoRA that is not folded in": raw | lora,
        r"missing.*not expected": raw | {"vae.decoder.conv_in.weight": torch.ones(2)},
        r"missing.*not expected \(model\.diffusion_model": {
            f"model.diffusion_model.{key}": value for key, value in state.items()
        },
    }
    for says, tensors in cases.items():
        save_file(tensors, tmp_path / "u.safetensors")
        with pytest.raises(IntegrityError, match=says):
            load_sampler(spec(tmp_path / "u.safetensors", v_folder, holds="unet"), "cpu", torch.float32)


def test_a_folders_file_behind_a_wrappers_names_says_how_it_is_read(
    v_folder: Path, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    student = write_tiny_student(tmp_path / "student", v_folder, seed=5)
    save_file({f"module.{key}": value for key, value in state.items()}, student / NETWORK, metadata={"format": "pt"})
    for sampler in ("multi_step", "pipeline"):
        with pytest.raises(IntegrityError) as caught:
            load_sampler(spec(student, sampler=sampler), "cpu", torch.float32)
        assert "begin with module." in str(caught.value) and f"parts: {{unet: {student / NETWORK}}}" in str(caught.value.fix)
    load_sampler(spec(student, parts={"unet": str(student / NETWORK)}), "cpu", torch.float32)  # as it says


def test_a_file_beside_another_config_than_its_bases(v_folder: Path, tmp_path: Path) -> None:
    """The number of heads has no tensor: the base's would make other pictures of the same weights."""
    student = write_tiny_student(tmp_path / "student", v_folder, seed=5)
    load_sampler(spec(student / NETWORK, v_folder, holds="unet"), "cpu", torch.float32)
    config = json.loads((student / "unet" / "config.json").read_text())
    (student / "unet" / "config.json").write_text(json.dumps(config | {"attention_head_dim": 4}))
    with pytest.raises(InputError, match="attention_head_dim is 4"):
        load_sampler(spec(student / NETWORK, v_folder, holds="unet"), "cpu", torch.float32)
    load_sampler(spec(student / "unet", v_folder, holds="unet"), "cpu", torch.float32)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("sampler", ["multi_step", "pipeline"])
@pytest.mark.parametrize("spoilt", ["a tensor too few", "a tensor too many"])
def test_a_part_whose_tensors_are_not_its_configs(v_folder: Path, tmp_path: Path, name: str, sampler: str, spoilt: str) -> None:
    """diffusers' pipelines fill what is missing by chance, and leave out what is too much."""
    if (name, spoilt) == ("text_encoder", "a tensor too many"):
        return  # stored encoders often have a projection besides
    folder = Path(shutil.copytree(v_folder, tmp_path / "m"))
    file = next((folder / name).glob("*.safetensors"))
    tensors = load_file(file)
    if spoilt == "a tensor too few":
        del tensors[next(key for key in sorted(tensors) if "weight" in key)]
    else:
        tensors["one.more.weight"] = torch.ones(2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=f"m/{name}: weights do not fit config.json"):
        load_sampler(spec(folder, sampler=sampler), "cpu", torch.float32)


@pytest.mark.ci
def test_a_pipeline_that_casts_its_autoencoder_while_it_runs(tmp_path: Path, make_block: Make) -> None:
    """SDXL's in float16 is decoded in float32: two threads that share it would find it in the other's dtype."""
    folder = write_tiny_sdxl(tmp_path / "sdxl")
    model = load_sampler(spec(folder, guidance_scale=1.0, resolution=64), "cpu", torch.float16)
    blocks = [make_block(start, 2) for start in range(0, 24, 2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one_by_one = [model.generate(block, Stopwatch()) for block in blocks]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda block: model.generate(block, Stopwatch()), blocks))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(one_by_one, together, strict=True))
    pipeline = model.pipeline()
    assert isinstance(pipeline, StableDiffusionXLPipeline)
    assert pipeline.vae.dtype == torch.float16
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model.pipeline).result().vae is not pipeline.vae
