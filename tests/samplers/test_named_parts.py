"""Parts from anywhere: a spec that names them makes stock diffusers' images with the same parts in the same places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ldm_checkpoint
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from stock import stock_images, stock_pipeline
from tiny_models import tiny_autoencoder, write_tiny_pipeline
from twins import twin_spec, write_twin

from sbv2bench.data.chain import chain as chain_of
from sbv2bench.data.chain import hash_chain
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]
Twin = Callable[..., Path]
WEIGHTS = {"transformer": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    root = tmp_path_factory.mktemp("twins")

    def written(name: str, seed: int = 0) -> Path:
        folder = root / f"{name}{seed}"
        return folder if folder.exists() else write_twin(name, folder, seed)

    return written


def images_of(spec: ModelSpec, block: PromptBlock) -> np.ndarray:
    return np.asarray(load_sampler(spec, "cpu", torch.float32).generate(block, Stopwatch()))


def with_parts(spec: ModelSpec, **parts: Path) -> ModelSpec:
    return ModelSpec.model_validate(spec.model_dump() | {"parts": {name: str(place) for name, place in parts.items()}})


def forms(donor: Path, part: str) -> list[Path]:
    """A part by its own folder, by the folder of its pipeline, and where it is one file by that."""
    file = donor / part / f"{WEIGHTS.get(part, 'model')}.safetensors"
    return [donor / part, donor, *([file] if file.is_file() else [])]


SWAPS = [
    ("sd3", ("transformer", "text_encoder_2")), ("flux-dev", ("vae", "text_encoder_2")),
    *(pytest.param(name, parts, marks=pytest.mark.ci) for name, parts in (
        ("sdxl", ("unet", "text_encoder_2")), ("sd3", ("text_encoder_3",)), ("flux-dev", ("transformer",)),
        ("qwen-image", ("transformer",)), ("qwen-image", ("vae", "text_encoder")), ("z-image", ("transformer", "text_encoder")),
        ("flux2-klein", ("transformer",)), ("sana-sprint", ("transformer", "vae")), ("pixart-sigma", ("transformer",)),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts"), SWAPS)
def test_images_are_those_of_stock_diffusers_with_the_same_parts(
    twin: Twin, make_block: Make, name: str, parts: tuple[str, ...]
) -> None:
    base, donor, block = twin(name), twin(name, 5), make_block(count=2)
    spec, others = twin_spec(name, base), stock_pipeline(donor)
    expected = stock_images(stock_pipeline(base, **{part: getattr(others, part) for part in parts}), spec, block)
    for places in zip(*(forms(donor, part) for part in parts), strict=True):
        assert np.array_equal(images_of(with_parts(spec, **dict(zip(parts, places, strict=True))), block), expected)
    assert not np.array_equal(images_of(spec, block), expected)


def test_what_a_folder_brings_for_a_transformer_pipeline(twin: Twin, tmp_path: Path, make_block: Make) -> None:
    """One spec made other pictures by `multi_step` than by `pipeline`, which looked for parts beside the index alone."""
    base, donor, block = twin("sd3"), twin("sd3", 5), make_block(count=2)
    names = ("transformer", "vae", "text_encoder_2", "scheduler")
    for name in names:
        shutil.copytree(donor / name, tmp_path / "student" / name)
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(tmp_path / "student" / "scheduler")
    spec = twin_spec("sd3", tmp_path / "student", base=str(base))
    others = stock_pipeline(donor)
    parts = {name: getattr(others, name) for name in names[:3]} | {"scheduler": FlowMatchEulerDiscreteScheduler(shift=1.0)}
    assert np.array_equal(images_of(spec, block), stock_images(stock_pipeline(base, **parts), spec, block))


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_transformer_alone_on_its_base(twin: Twin, tmp_path: Path, make_block: Make, form: str) -> None:
    """`holds: unet` scored the base under the student's name."""
    base, donor, block = twin("sd3"), twin("sd3", 5), make_block(count=2)
    student = donor / "transformer"
    if form == "file":
        state = load_file(student / "diffusion_pytorch_model.safetensors")
        student = tmp_path / "student.safetensors"
        save_file({f"module.transformer.{key}": value for key, value in state.items()}, student)
    spec = twin_spec("sd3", student, holds="transformer", base=str(base))
    expected = stock_images(stock_pipeline(base, transformer=stock_pipeline(donor).transformer), spec, block)
    assert np.array_equal(images_of(spec, block), expected)
    assert hash_chain(chain_of(spec))[0].path in ("student.safetensors", "config.json")
    with pytest.raises(InputError, match="StableDiffusion3Pipeline has no unet") as caught:
        load_sampler(spec.model_copy(update={"holds": "unet"}), "cpu", torch.float32)
    assert "holds: transformer" in str(caught.value.fix)


def test_a_scheduler_and_a_tokenizer_from_elsewhere(twin: Twin, tmp_path: Path, make_block: Make) -> None:
    base, block = twin("flux-dev"), make_block(count=2)
    spec, scheduler = twin_spec("flux-dev", base), FlowMatchEulerDiscreteScheduler(shift=6.0)
    scheduler.save_pretrained(tmp_path)
    expected = stock_images(stock_pipeline(base, scheduler=scheduler), spec, block)
    for place in (tmp_path, tmp_path / "scheduler_config.json"):
        assert np.array_equal(images_of(with_parts(spec, scheduler=place), block), expected)
    shorter = Path(shutil.copytree(base / "tokenizer", tmp_path / "tokenizer"))
    config = json.loads((shorter / "tokenizer_config.json").read_text()) | {"model_max_length": 4}
    (shorter / "tokenizer_config.json").write_text(json.dumps(config))
    sampler: Any = load_sampler(with_parts(spec, tokenizer=shorter), "cpu", torch.float32)
    assert sampler.pipeline().tokenizer.model_max_length == 4


SD_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@pytest.mark.parametrize("sampler", ["one_step", "multi_step", "pipeline", "rectified_flow"])
def test_every_sampler_takes_them_in_one_way(v_folder: Path, tmp_path: Path, make_block: Make, sampler: str) -> None:
    donor, block = write_tiny_pipeline(tmp_path / "donor", "v_prediction", seed=7), make_block()
    plain = ModelSpec(id="local/x", sampler=sampler, location=str(v_folder), steps=1 if sampler == "one_step" else 2)
    whole = images_of(plain.model_copy(update={"location": str(donor)}), block)
    assert np.array_equal(images_of(with_parts(plain, **dict.fromkeys(SD_PARTS, donor)), block), whole)
    files = {name: forms(donor, name)[2] for name in ("unet", "vae", "text_encoder")}
    folders = {name: donor / name for name in ("tokenizer", "scheduler")}
    assert np.array_equal(images_of(with_parts(plain, **files, **folders), block), whole)
    assert not np.array_equal(images_of(with_parts(plain, unet=files["unet"]), block), whole)


def test_files_in_their_authors_names(epsilon_folder: Path, tmp_path: Path, make_block: Make) -> None:
    """Of a whole model in one file the part that is named."""
    donor, block = write_tiny_pipeline(tmp_path / "donor", "epsilon", latent_channels=4, seed=7), make_block()
    state = ldm_checkpoint.state_dict(StableDiffusionPipeline.from_pretrained(donor, safety_checker=None))
    save_file(state, tmp_path / "whole.safetensors")
    plain = ModelSpec(id="local/x", sampler="multi_step", location=str(epsilon_folder), steps=2)
    for name in ("unet", "vae"):
        found = images_of(with_parts(plain, **{name: tmp_path / "whole.safetensors"}), block)
        assert np.array_equal(found, images_of(with_parts(plain, **{name: donor}), block))
    lost = {key: value for key, value in state.items() if key != "model.diffusion_model.out.2.weight"}
    save_file(lost, tmp_path / "lost.safetensors")
    with pytest.raises(IntegrityError, match=r"lost\.safetensors: weights do not fit config.json"):
        load_sampler(with_parts(plain, unet=tmp_path / "lost.safetensors"), "cpu", torch.float32)


def test_parts_and_adapters_beside_a_whole_model_in_one_file(epsilon_folder: Path, tmp_path: Path, make_block: Make) -> None:
    state = ldm_checkpoint.state_dict(StableDiffusionPipeline.from_pretrained(epsilon_folder, safety_checker=None))
    save_file(state, tmp_path / "whole.safetensors")
    donor, block = write_tiny_pipeline(tmp_path / "donor", "epsilon", latent_channels=4, seed=7), make_block()
    fields: dict[str, Any] = {"sampler": "pipeline", "steps": 2, "resolution": 32}
    one = ModelSpec(id="local/x", location=str(tmp_path / "whole.safetensors"), base=str(epsilon_folder), **fields)
    many = ModelSpec(id="local/x", location=str(epsilon_folder), **fields)
    layer = "down_blocks.0.attentions.0.proj_in"
    shape = load_file(epsilon_folder / "unet" / "diffusion_pytorch_model.safetensors")[f"{layer}.weight"].shape
    lora = {
        f"unet.{layer}.lora_A.weight": torch.ones(2, *shape[1:]),
        f"unet.{layer}.lora_B.weight": torch.ones(shape[0], 2, *[1] * len(shape[2:])),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    more = {"text_encoder": str(donor)}, [{"location": str(tmp_path / "lora.safetensors"), "scale": 0.3}]
    changed = [
        ModelSpec.model_validate(spec.model_dump() | dict(zip(("parts", "adapters"), more, strict=True))) for spec in (one, many)
    ]
    assert np.array_equal(*(images_of(spec, block) for spec in changed))
    assert not np.array_equal(images_of(changed[0], block), images_of(one, block))


def test_places_in_a_catalog_are_meant_from_its_folder(v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(v_folder, tmp_path / "donor")
    (tmp_path / "lora.safetensors").touch()
    (tmp_path / "c.yaml").write_text(
        "models: {mine: {sampler: multi_step, location: donor, vae: donor, parts: {unet: donor/unet, text_encoder: "
        "donor/text_encoder/model.safetensors}, adapters: [{location: lora.safetensors, scale: 0.3}]}}"
    )
    monkeypatch.chdir(v_folder)
    links = chain_of(Registry.load(tmp_path / "c.yaml").model("mine"))
    assert {link.holds: link.folder.relative_to(tmp_path).as_posix() for link in links} == {
        "model": "donor", "vae": "donor/vae", "unet": "donor/unet", "text_encoder": "donor/text_encoder/model.safetensors",
        "lora": "lora.safetensors",
    }  # fmt: skip


def test_a_tiny_autoencoder_decodes_a_transformers_latents(twin: Twin, tmp_path: Path, make_block: Make) -> None:
    base, block = twin("sd3"), make_block(count=2)
    torch.manual_seed(0)
    tiny = tiny_autoencoder(4)
    tiny.save_pretrained(tmp_path)
    spec = twin_spec("sd3", base)
    expected = stock_images(stock_pipeline(base, vae=tiny), spec, block)
    assert np.array_equal(images_of(with_parts(spec, vae=tmp_path), block), expected)


def test_parts_that_do_not_fit_the_rest_are_refused_by_both_sides(twin: Twin, tmp_path: Path) -> None:
    sd3, flux = twin("sd3"), twin("flux-dev")
    torch.manual_seed(0)
    tiny_autoencoder(8).save_pretrained(tmp_path / "eight")
    cases: list[tuple[str, str, Path, str]] = [
        ("sd3", "vae", tmp_path / "eight", rf"{sd3}/transformer has in_channels 4 and {tmp_path}/eight has latent_channels 8"),
        ("sd3", "transformer", flux / "transformer", "a FluxTransformer2DModel, expected a SD3Transformer2DModel"),
        ("flux-dev", "text_encoder_2", sd3 / "text_encoder_3", "joint_attention_dim 16 and .*text_encoder_3 has d_model 32"),
        ("flux-dev", "text_encoder_2", sd3 / "text_encoder", "a clip_text_model, expected a t5"),
        ("flux-dev", "tokenizer", flux / "tokenizer_2", "a T5Tokenizer, expected a CLIPTokenizer"),
        ("flux-dev", "vae", twin("qwen-image") / "vae", "AutoencoderKLQwenImage.*, expected AutoencoderKL or AutoencoderTiny"),
    ]
    for name, part, place, says in cases:
        with pytest.raises(InputError, match=says) as caught:
            load_sampler(with_parts(twin_spec(name, twin(name)), **{part: place}), "cpu", torch.float32)
        assert str(place) in caught.value.message, part
