"""A UNet or an adapter alone on a base, from a file or a folder, in every layout that diffusers reads; and other autoencoders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_models import tiny_autoencoder, write_tiny_adapter, write_tiny_student

from sbv2bench.data.chain import chain, hash_chain
from sbv2bench.errors import InputError, IntegrityError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]
NETWORK = "unet/diffusion_pytorch_model.safetensors"
KINDS = ("one_step", "pipeline")


def spec(location: Path, base: Path | str = "", holds: str = "unet", sampler: str = "one_step", **fields: Any) -> ModelSpec:
    chosen = {"steps": 1, "scheduler": "folder" if sampler == "one_step" else "ddim"} | fields
    return ModelSpec(id="local/x", sampler=sampler, location=str(location), holds=holds, base=str(base), **chosen)  # type: ignore[arg-type]


def load(model: ModelSpec) -> Any:
    return load_sampler(model, "cpu", torch.float32)


def images_of(model: ModelSpec, block: PromptBlock) -> np.ndarray:
    return np.asarray(load(model).generate(block, Stopwatch()))


def unet_of(sampler: Any) -> UNet2DConditionModel:
    return sampler.networks()["unet"]


@pytest.fixture(scope="module")
def student(v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_student(tmp_path_factory.mktemp("swaps") / "student", v_folder, seed=5)


@pytest.mark.parametrize("sampler", KINDS)
def test_a_file_of_a_unet_makes_its_models_images(
    v_folder: Path, student: Path, tmp_path: Path, make_block: Make, sampler: str
) -> None:
    file = Path(shutil.copy(student / NETWORK, tmp_path / "mine.safetensors"))
    shutil.copytree(student / "unet", tmp_path / "folder")
    whole = images_of(spec(student, holds="model", sampler=sampler), make_block())
    for location in (file, tmp_path / "folder"):
        assert np.array_equal(images_of(spec(location, v_folder, sampler=sampler), make_block()), whole)
    assert not np.array_equal(images_of(spec(v_folder, holds="model", sampler=sampler), make_block()), whole)


def test_a_released_checkpoint_has_its_unet_in_unet_ema(v_folder: Path, student: Path, tmp_path: Path, make_block: Make) -> None:
    """The folder as VinAIResearch/SwiftBrushV2 releases it; the rest is SD-Turbo's."""
    shutil.copytree(student / "unet", tmp_path / "released" / "unet_ema")
    released = spec(tmp_path / "released", v_folder, holds="model")
    expected = images_of(spec(student, holds="model"), make_block())
    assert np.array_equal(images_of(released, make_block()), expected)


def test_a_catalog_declares_a_file_beside_itself(v_folder: Path, student: Path, tmp_path: Path) -> None:
    shutil.copy(student / NETWORK, tmp_path / "mine.safetensors")
    (tmp_path / "c.yaml").write_text(
        "models:\n  mine: {sampler: one_step, location: mine.safetensors, holds: unet, base: base, steps: 1}\n"
    )
    shutil.copytree(v_folder, tmp_path / "base")
    found = Registry.load(tmp_path / "c.yaml").model("mine")
    state = unet_of(load(found)).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in load_file(student / NETWORK).items())
    hashed = [file.path for file in hash_chain(chain(found))]
    assert hashed[0] == "mine.safetensors" and f"{tmp_path / 'base'}:vae/config.json" in hashed
    with pytest.raises(InputError, match="is a file") as caught:
        Registry.load().model(str(tmp_path / "mine.safetensors"))
    assert "holds: unet" in str(caught.value)


def half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: state[key] for key in sorted(state)[: len(state) // 2]}


SPOILT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "half the keys": (half, r"do not fit config.json: \d+ missing \(.* more\)"),
    "wrong shapes": (lambda s: {k: v[:1] if v.ndim == 4 else v for k, v in s.items()}, r"expected shape .*\[1, "),
    "names of another layout": (lambda s: {f"model.diffusion_model.{k}": v for k, v in s.items()}, r"missing.*not expected"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("sampler", KINDS)
def test_a_file_that_is_not_the_unets(v_folder: Path, student: Path, tmp_path: Path, name: str, sampler: str) -> None:
    spoil, says = SPOILT[name]
    save_file({key: value.contiguous() for key, value in spoil(load_file(student / NETWORK)).items()}, tmp_path / "u.safetensors")
    with pytest.raises(IntegrityError, match=says) as caught:
        load(spec(tmp_path / "u.safetensors", v_folder, sampler=sampler))
    assert "u.safetensors" in str(caught.value) and len(str(caught.value).splitlines()) <= 3


def test_what_a_file_needs(v_folder: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(shutil.copy(student / NETWORK, tmp_path / "u.safetensors"))
    with pytest.raises(InputError, match="expected base"):
        load(spec(file))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(IntegrityError, match="the file was cut"):
        load(spec(file, v_folder))
    file.write_bytes(whole)
    (tmp_path / "u.txt").write_text("x")
    with pytest.raises(InputError, match="expected a weights file"):
        load(spec(tmp_path / "u.txt", v_folder))
    torch.save(load_file(file), tmp_path / "u.bin")
    with pytest.raises(IntegrityError, match="pickled"):
        load(spec(tmp_path / "u.bin", v_folder))
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    state = unet_of(load(spec(tmp_path / "u.bin", v_folder))).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in load_file(file).items())


def write_loras(folder: Path, base: Path) -> dict[str, Path]:
    """One random adapter of a pipeline's UNet in each layout: peft's folder, diffusers' file, kohya's file with alphas."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    write_tiny_adapter(folder, unet, "")
    adapter = load_file(folder / "unet_lora" / "adapter_model.safetensors")
    tensors = {key.removeprefix("base_model.model."): value for key, value in adapter.items()}
    scaled = {key: value * 2 if "lora_B" in key else value for key, value in tensors.items()}  # alpha 4 of rank 2, baked in
    save_file({f"unet.{key}": value for key, value in scaled.items()}, folder / "diffusers.safetensors")
    old = {key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value for key, value in scaled.items()}
    save_file({f"unet.{key}": value for key, value in old.items()}, folder / "old.safetensors")
    kohya = convert_state_dict_to_kohya({f"unet.{key}": value for key, value in tensors.items()})
    alphas = {key: torch.tensor(4.0) for key in kohya if key.endswith(".alpha")}
    assert len(alphas) * 2 == len(tensors)
    save_file(
        {key.replace("unet.", "lora_unet_"): value for key, value in (kohya | alphas).items()}, folder / "kohya.safetensors"
    )
    shutil.copytree(folder / "unet_lora", folder / "peft")
    return {"peft": folder / "peft", **{name: folder / f"{name}.safetensors" for name in ("diffusers", "old", "kohya")}}


@pytest.fixture(scope="module")
def loras(v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_loras(tmp_path_factory.mktemp("loras"), v_folder)


@pytest.mark.parametrize("layout", ["peft", "diffusers", "old", "kohya"])
def test_a_lora_of_any_layout_is_folded_in(v_folder: Path, loras: dict[str, Path], layout: str) -> None:
    """Against peft's own forward pass of the same adapter."""
    unet = UNet2DConditionModel.from_pretrained(v_folder / "unet")
    inputs = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(2)), 999, torch.randn(2, 4, 16)
    with torch.no_grad():
        plain = unet(*inputs).sample
    expected_unet = _adapted_by_peft(unet, loras["peft"])
    with torch.no_grad():
        expected = expected_unet(*inputs).sample
        for sampler in KINDS:
            found = unet_of(load(spec(loras[layout], v_folder, "lora", sampler)))(*inputs).sample
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((expected - plain).abs().max()) > 0.01


def _adapted_by_peft(unet: UNet2DConditionModel, folder: Path) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(unet, folder).eval()


def test_a_lora_that_diffusers_wrote_is_folded_as_diffusers_does(v_folder: Path, tmp_path: Path) -> None:
    """save_lora_weights puts alpha into the file's header, where a reader that skips it folds half of the adapter."""
    pipeline = StableDiffusionPipeline.from_pretrained(v_folder, local_files_only=True)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_out.0"], init_lora_weights=False), "own")
    metadata = pipeline.unet.peft_config["own"].to_dict()
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "lora",
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet, adapter_name="own"),
        unet_lora_adapter_metadata=metadata,
    )
    fresh = StableDiffusionPipeline.from_pretrained(v_folder, local_files_only=True)
    fresh.load_lora_weights(tmp_path / "lora")
    fresh.fuse_lora()
    fresh.unload_lora_weights()
    found = unet_of(load(spec(tmp_path / "lora", v_folder, "lora"))).state_dict()
    for key, value in fresh.unet.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


def test_adapters_that_cannot_be_folded(v_folder: Path, epsilon_folder: Path, loras: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(loras["diffusers"])
    lost = {key.replace("conv1", "conv9"): value for key, value in state.items()}
    narrow = {key: value[:, :-1].contiguous() if "lora_A" in key else value for key, value in state.items()}
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        (lost, r"\d+ of its \d+ layers have no place"),
        (narrow, r"is of a weight \(16, 15\), found \(16, 16\)"),
        (load_file(v_folder / NETWORK), "none of a LoRA"),
    ]
    for tensors, says in cases:
        save_file(tensors, tmp_path / "l.safetensors")
        with pytest.raises((InputError, IntegrityError), match=says) as caught:
            load(spec(tmp_path / "l.safetensors", v_folder, "lora"))
        assert "l.safetensors" in str(caught.value)


@pytest.mark.parametrize("sampler", KINDS)
def test_another_autoencoder_decodes(epsilon_folder: Path, tmp_path: Path, make_block: Make, sampler: str) -> None:
    """TAESD in an AutoencoderKL's place: it reads latents as they are scaled (its scaling_factor is 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        tiny_autoencoder(4).save_pretrained(tmp_path / "tiny")
    shutil.copytree(epsilon_folder, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "vae")
    shutil.copytree(tmp_path / "tiny", tmp_path / "whole" / "vae")
    index = tmp_path / "whole" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["diffusers", "AutoencoderTiny"]}))
    swapped = spec(epsilon_folder, holds="model", sampler=sampler, vae=str(tmp_path / "tiny"), vae_scaling=0.18215)
    whole = spec(tmp_path / "whole", holds="model", sampler=sampler)
    assert np.array_equal(images_of(swapped, make_block()), images_of(whole, make_block()))
    plain = spec(epsilon_folder, holds="model", sampler=sampler)
    assert not np.array_equal(images_of(plain, make_block()), images_of(whole, make_block()))
    hashed = [file.path for file in hash_chain(chain(swapped))]
    assert f"{tmp_path / 'tiny'}:diffusion_pytorch_model.safetensors" in hashed
    assert swapped.fingerprint() != plain.fingerprint()


def spoil(folder: Path, tmp_path: Path, part: str, **changes: Any) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / part))
    path = copy / {"vae": "vae/config.json", "scheduler": "scheduler/scheduler_config.json"}[part]
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


@pytest.mark.parametrize("sampler", KINDS)
def test_parts_of_another_model_are_refused_where_the_spec_knows_better(
    epsilon_folder: Path, tmp_path: Path, sampler: str
) -> None:
    """The autoencoder of SDXL, and the 768 px Stable Diffusion 2.1, which predicts v, in the place of SD 2.1-base's."""
    known = {"holds": "model", "sampler": sampler, "vae_scaling": 0.18215, "prediction_type": "epsilon"}
    load(spec(epsilon_folder, **known))
    wrong = [
        (spoil(epsilon_folder, tmp_path, "vae", scaling_factor=0.13025), r"scaling_factor is 0\.13025, expected 0\.18215"),
        (spoil(epsilon_folder, tmp_path, "scheduler", prediction_type="v_prediction"), "is v_prediction, expected epsilon"),
    ]
    for folder, says in wrong:
        load(spec(folder, holds="model", sampler=sampler))
        with pytest.raises(IntegrityError, match=says) as caught:
            load(spec(folder, **known))
        assert str(folder) in str(caught.value)
    base = wrong[1][0]  # a UNet that is put on it may predict what it does not
    load(spec(epsilon_folder / "unet", base, sampler=sampler, prediction_type="epsilon"))


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"guidance": "none", "guidance_scale": 2.0}, InputError), ({"guidance": "embedded"}, IntegrityError)],
)
@pytest.mark.parametrize("sampler", KINDS)
def test_guidance_is_as_it_is_declared(v_folder: Path, fields: dict[str, Any], error: type[SBV2BenchError], sampler: str) -> None:
    load(spec(v_folder, holds="model", sampler=sampler, guidance="none"))
    with pytest.raises(error, match="guidance"):
        load(spec(v_folder, holds="model", sampler=sampler, **fields))
