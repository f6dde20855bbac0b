"""What a folder brings is used or refused: parts without a place, networks that lie loose, raw and averaged weights. No torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from one_tensor_parts import part, pipeline
from sample_results import write_safetensors

from sbv2bench.data.chain import chain, hash_chain
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.specs import ModelSpec


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


def test_a_folder_brings_a_transformer(tmp_path: Path, sd: Path, sd3: Path) -> None:
    part(tmp_path / "student", "transformer")
    follow(tmp_path / "student", sd3)
    with pytest.raises(InputError, match=r"StableDiffusionPipeline of its base .* has no transformer"):
        follow(tmp_path / "student", sd)


def test_a_denoiser_alone_is_of_the_kind_of_its_bases(tmp_path: Path, sd: Path, sd3: Path) -> None:
    """The base alone would be scored under the student's name."""
    file = write_safetensors(tmp_path / "student.safetensors")
    for holds, own, other in (("unet", sd, sd3), ("transformer", sd3, sd)):
        follow(file, own, holds)
        with pytest.raises(InputError, match=rf"has no {holds} \(.*\), expected one for holds: {holds}") as caught:
            follow(file, other, holds)
        assert f"holds: {'transformer' if holds == 'unet' else 'unet'}" in str(caught.value.fix)
    for base in (sd, sd3):
        follow(file, base, "lora")
    with pytest.raises(InputError, match="has no UNet or transformer"):
        follow(file, pipeline(tmp_path / "other", "vae", "prior"), "lora")


def named(base: Path, parts: dict[str, Path], vae: str = "") -> ModelSpec:
    places = {name: str(place) for name, place in parts.items()}
    return ModelSpec(id="local/x", sampler="pipeline", location=str(base), parts=places, vae=vae)


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder", "scheduler"])
def test_a_part_is_named_by_its_folder_its_pipelines_or_a_file(tmp_path: Path, sd3: Path, name: str) -> None:
    own = part(tmp_path / "donor", name)
    file = next((path for path in own.iterdir() if path.name != "config.json"), own)
    for place in (own, tmp_path / "donor", file):
        link = chain(named(sd3, {name: place}))[-1]
        assert (link.holds, link.folder) == (name, file if place == file else own)
        found = {one.path for one in hash_chain(chain(named(sd3, {name: place})))}
        weights = "scheduler_config.json" if name == "scheduler" else "diffusion_pytorch_model.safetensors"
        assert f"{'' if name == 'vae' else f'{name}:'}{place}:{weights}" in found


def test_the_weights_that_are_replaced_are_not_read(tmp_path: Path, sd3: Path) -> None:
    """They may not even be there. An autoencoder's are: models that name one have always been known by both."""
    own = part(tmp_path / "donor", "transformer")
    (sd3 / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(PrerequisiteError, match="transformer: no weights found"):
        hash_chain(chain(named(sd3, {})))
    found = {one.path for one in hash_chain(chain(named(sd3, {"transformer": own, "vae": part(tmp_path / "other", "vae")})))}
    assert "transformer/config.json" in found and "transformer/diffusion_pytorch_model.safetensors" not in found
    assert "vae/diffusion_pytorch_model.safetensors" in found


def test_both_forms_of_an_autoencoder_are_one_model(tmp_path: Path, sd3: Path) -> None:
    vae = part(tmp_path / "donor", "vae")
    short, long = named(sd3, {}, vae=str(vae)), named(sd3, {"vae": vae})
    assert short.fingerprint() == long.fingerprint() and hash_chain(chain(short)) == hash_chain(chain(long))
    with pytest.raises(ValueError, match="expected one of them"):
        named(sd3, {"vae": vae}, vae="elsewhere")


def test_a_part_without_a_place_is_refused(tmp_path: Path, sd: Path, sd3: Path) -> None:
    own, text = part(tmp_path / "donor", "transformer"), part(tmp_path / "donor", "text_encoder_2")
    for base, name, place in (
        (sd, "transformer", own),
        (sd3, "unet", own),
        (sd3, "text_encoder_2", text),
        (sd3, "image_encoder", own),
    ):
        with pytest.raises(InputError, match=rf"Pipeline has no {name} \(.*\), so {place} would not be used") as caught:
            chain(named(base, {name: place}))
        assert f"take {name} out" in str(caught.value.fix)
    file = write_safetensors(tmp_path / "student.safetensors")
    with pytest.raises(InputError, match=r"its location holds a transformer, and parts\.transformer is"):
        chain(ModelSpec(id="local/x", sampler="pipeline", location=str(file), holds="transformer", base=str(sd3),
                        parts={"transformer": str(own)}))  # fmt: skip
    for place, says in ((tmp_path / "donor" / "none", "does not exist"), (tmp_path, "holds no transformer")):
        with pytest.raises(InputError, match=says):
            chain(named(sd3, {"transformer": place}))
    part(tmp_path / "lora", "unet_lora")
    (tmp_path / "lora" / "unet_lora" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(sd)}))
    with pytest.raises(InputError, match=r"unet_lora: would not be used"):
        chain(named(tmp_path / "lora", {"unet": part(tmp_path / "donor", "unet")}))


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
