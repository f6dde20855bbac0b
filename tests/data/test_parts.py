"""What a folder brings is used or refused: parts without a place, networks that lie loose, raw and averaged weights. No torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sample_results import write_safetensors

from sbv2bench.data.chain import chain
from sbv2bench.errors import InputError
from sbv2bench.specs import ModelSpec

CLASSES = {
    "unet": "UNet2DConditionModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
    "image_encoder": "CLIPVisionModel",
}


def part(folder: Path, name: str, kind: str | None = None) -> Path:
    """One part of its kind, in files of one tensor."""
    where = folder / name
    where.mkdir(parents=True)
    if name.startswith("scheduler"):
        (where / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    elif name.startswith("tokenizer"):
        (where / "tokenizer_config.json").write_text("{}")
    else:
        write_safetensors(where / "diffusion_pytorch_model.safetensors")
        (where / "config.json").write_text(json.dumps({"_class_name": kind or CLASSES.get(name, "CLIPTextModel")}))
    return where


def pipeline(folder: Path, *parts: str, kind: str = "StableDiffusionPipeline") -> Path:
    for name in parts:
        part(folder, name)
    index = {"_class_name": kind} | {name: ["diffusers", CLASSES.get(name, "X")] for name in parts}
    (folder / "model_index.json").write_text(json.dumps(index | {"image_encoder": [None, None]}))
    return folder


def follow(folder: Path, base: Path | str = "", holds: str = "model") -> None:
    chain(ModelSpec(id="local/x", sampler="pipeline", location=str(folder), base=str(base), holds=holds))  # type: ignore[arg-type]


@pytest.fixture
def sd(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "sd", "unet", "vae", "text_encoder", "tokenizer", "scheduler")


@pytest.fixture
def sd3(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "sd3", "transformer", "vae", "text_encoder", "scheduler", kind="StableDiffusion3Pipeline")


@pytest.mark.parametrize("name", ["unet", "unet_ema", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_parts_that_have_a_place_are_taken(tmp_path: Path, sd: Path, name: str) -> None:
    part(tmp_path / "student", name)
    part(tmp_path / "student", "safety_checker")  # which is never loaded
    follow(tmp_path / "student", sd)


@pytest.mark.parametrize("name", ["transformer", "text_encoder_2", "image_encoder", "unet_raw", "scheduler_old"])
def test_a_part_without_a_place_is_refused_by_name(tmp_path: Path, sd: Path, name: str) -> None:
    part(tmp_path / "student", "unet")
    part(tmp_path / "student", name)
    with pytest.raises(InputError, match=f"student/{name}: StableDiffusionPipeline .* has no {name}"):
        follow(tmp_path / "student", sd)


def test_a_transformer_alone_is_refused_by_name(tmp_path: Path, sd3: Path) -> None:
    part(tmp_path / "student", "transformer")
    with pytest.raises(InputError, match=r"student/transformer: a transformer alone .* a whole StableDiffusion3Pipeline"):
        follow(tmp_path / "student", sd3)


@pytest.mark.parametrize("holds", ["unet", "lora"])
def test_a_unet_or_its_adapter_on_a_transformer(tmp_path: Path, sd: Path, sd3: Path, holds: str) -> None:
    file = write_safetensors(tmp_path / "student.safetensors")
    follow(file, sd, holds)
    with pytest.raises(InputError, match=f"StableDiffusion3Pipeline has no UNet .*holds: {holds}"):
        follow(file, sd3, holds)


def test_a_network_that_lies_loose_is_refused(tmp_path: Path, sd: Path) -> None:
    """`location: student/unet` without `holds: unet`: its base alone would be scored under its name."""
    unet = part(tmp_path / "student", "unet")
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors lies in no part's folder") as caught:
        follow(unet, sd)
    assert "holds: unet" in str(caught.value.fix)
    follow(unet, sd, "unet")
    write_safetensors(tmp_path / "student" / "pytorch_lora_weights.safetensors")
    with pytest.raises(InputError, match="pytorch_lora_weights"):
        follow(tmp_path / "student", sd)


def test_a_folder_of_which_nothing_would_be_used_is_refused(tmp_path: Path, sd: Path) -> None:
    write_safetensors(tmp_path / "student" / "checkpoint-500" / "model.safetensors")
    with pytest.raises(InputError, match="holds none of scheduler, text_encoder"):
        follow(tmp_path / "student", sd)


@pytest.mark.parametrize("names", [("unet", "unet_ema"), ("unet", "ema_unet"), ("unet_ema", "unet")])
@pytest.mark.parametrize("whole", [True, False])
def test_raw_and_averaged_weights_side_by_side(tmp_path: Path, sd: Path, names: tuple[str, str], whole: bool) -> None:
    """As training programs leave them; which are meant, whoever names the folder must say."""
    student = pipeline(tmp_path / "student", "unet", "vae") if whole else tmp_path / "student"
    for name in names:
        if not (student / name).exists():
            part(student, name, "UNet2DConditionModel")
    with pytest.raises(InputError) as caught:
        follow(student, sd)
    if whole or names[1] != "ema_unet":
        assert "raw and averaged" in str(caught.value) and f"base: {student}" in str(caught.value.fix)
    for name in names:  # the choice that the fix names
        follow(student / name, student if whole else sd, "unet")


def test_raw_and_averaged_files_in_one_folder(tmp_path: Path, sd: Path) -> None:
    unet = part(tmp_path / "student", "unet")
    write_safetensors(unet / "diffusion_pytorch_model.non_ema.safetensors")  # so the plain one is the average
    write_safetensors(unet / "diffusion_pytorch_model.fp16.safetensors")
    follow(tmp_path / "student", sd)
    write_safetensors(unet / "diffusion_pytorch_model.ema.safetensors")
    for location, holds in ((tmp_path / "student", "model"), (unet, "unet")):
        with pytest.raises(InputError, match=r"raw and averaged .*diffusion_pytorch_model\.ema"):
            follow(location, sd, holds)


def test_a_transformers_average_is_seen_too(sd3: Path) -> None:
    follow(sd3)
    part(sd3, "transformer_ema", "SD3Transformer2DModel")
    with pytest.raises(InputError, match=r"raw and averaged .*transformer and transformer_ema"):
        follow(sd3)


def test_an_authors_own_spare_parts_are_left_to_the_index(sd: Path) -> None:
    """A hub repository holds a second autoencoder, another checkpoint: its model_index.json says what is used."""
    part(sd, "vae_1_0", "AutoencoderKL")
    write_safetensors(sd / "model-512.safetensors")
    follow(sd)
