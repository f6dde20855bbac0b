"""LoRAs of every usual layout in UNets, transformers and text encoders, beside those that stock diffusers does not fold in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import pytest
import tiny_loras
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from stock import stock_images, stock_pipeline
from twins import twin_spec, write_twin

from sbv2bench.data.assets import read_json
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.adapters import Target, read_adapter
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.specs import AdapterSpec, ModelSpec
from sbv2bench.weights import fold_lora

Make = Callable[..., PromptBlock]
Twin = Callable[[str], Path]
State = tiny_loras.State
SCALE = 0.6
LAYOUTS: dict[str, Callable[[State], State]] = {
    "bare": dict,
    "of an adapter's name": tiny_loras.of_the_adapters_name,
    "lightning": tiny_loras.with_alphas,
    "kohya": tiny_loras.kohya,
    "comfy": tiny_loras.under("diffusion_model"),
    "comfy with alphas": lambda state: tiny_loras.under("diffusion_model")(tiny_loras.with_alphas(state)),
    "unet": tiny_loras.under("unet"),
    "unet, old": lambda state: tiny_loras.under("unet")(tiny_loras.old_diffusers(state)),
    "transformer": tiny_loras.under("transformer"),
    "transformer, old": lambda state: tiny_loras.under("transformer")(tiny_loras.old_diffusers(state)),
}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
OF_UNETS = ("unet", "unet, old", "kohya", "bare")
OF_TRANSFORMERS = ("transformer", "transformer, old", "bare")
TRANSLATED = ("transformer", "lightning", "kohya", "comfy", "comfy with alphas", "of an adapter's name", "bare")
READ = {  # twin -> the layouts that its class reads, or that can mean but one thing for it
    "sd": OF_UNETS,
    "sdxl": OF_UNETS,
    "sd3": OF_TRANSFORMERS,
    "pixart-sigma": OF_TRANSFORMERS,
    "sana-sprint": OF_TRANSFORMERS,
    "flux-dev": OF_TRANSFORMERS,
    "flux2-klein": OF_TRANSFORMERS,
    "qwen-image": TRANSLATED,
    "z-image": TRANSLATED,
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    root = tmp_path_factory.mktemp("twins")
    return lambda name: root / name if (root / name).exists() else write_twin(name, root / name)


def part_of(folder: Path) -> str:
    return "unet" if (folder / "unet").exists() else "transformer"


def network_of(spec: ModelSpec, name: str = "") -> torch.nn.Module:
    """A denoiser with what is folded into it, on the way on which a pipeline's are read."""
    part = part_of(Path(spec.location))
    kind = getattr(diffusers, read_json(Path(spec.location) / part / "config.json")["_class_name"])
    network: torch.nn.Module = StoredModel.find(spec).network(kind, part, torch.float32)
    return network


def images_of(spec: ModelSpec, block: PromptBlock) -> np.ndarray:
    return np.asarray(load_sampler(spec, "cpu", torch.float32).generate(block, Stopwatch()))


def adapted(spec: ModelSpec, *adapters: tuple[Path, float]) -> ModelSpec:
    return spec.model_copy(update={"adapters": tuple(AdapterSpec(location=str(path), scale=scale) for path, scale in adapters)})


def not_folded(folder: Path, *adapters: tuple[Path, float]) -> DiffusionPipeline:
    pipeline = stock_pipeline(folder)
    for number, (path, _) in enumerate(adapters):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=f"a{number}")
    pipeline.set_adapters([f"a{number}" for number in range(len(adapters))], [scale for _, scale in adapters])
    return pipeline


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Folding rounds once more than the sum of two products does."""
    difference = np.abs(found.astype(int) - expected)
    return bool(difference.max() <= 1 and (difference > 0).mean() <= 2e-3)


def write(state: State, path: Path) -> Path:
    save_file(state, path)
    return path


def lora_of(folder: Path, seed: int = 0) -> State:
    targets = ATTENTION if part_of(folder) == "unet" else "all-linear"
    return tiny_loras.random_lora(network_of(ModelSpec(id="local/x", sampler="pipeline", location=str(folder))), seed, targets)


@pytest.mark.ci
@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name, layouts in READ.items() for layout in layouts])
def test_every_layer_of_any_layout_is_folded_in(twin: Twin, tmp_path: Path, name: str, layout: str) -> None:
    """With the alpha that each layer has; diffusers takes one alpha for all attention layers of a kohya file."""
    folder, spec = twin(name), twin_spec(name, twin(name))
    lora = lora_of(folder)
    alphas = tiny_loras.alphas_of(lora) if any(".alpha" in key for key in LAYOUTS[layout](lora)) else {}
    before = network_of(spec).state_dict()
    found = network_of(adapted(spec, (write(LAYOUTS[layout](lora), tmp_path / "l.safetensors"), SCALE))).state_dict()
    expected = before | tiny_loras.folded(before, lora, SCALE, alphas)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("sdxl", "unet"), ("flux-dev", "transformer"), ("qwen-image", "lightning"), ("z-image", "comfy with alphas"),
        *(pytest.param(name, "transformer", marks=pytest.mark.ci) for name in ("sd3", "sana-sprint", "flux2-klein", "z-image")),
        pytest.param("sd", "unet, old", marks=pytest.mark.ci), pytest.param("qwen-image", "kohya", marks=pytest.mark.ci),
    ],
)  # fmt: skip
def test_its_images_are_those_of_stock_diffusers(twin: Twin, tmp_path: Path, make_block: Make, name: str, layout: str) -> None:
    folder, block = twin(name), make_block(count=2)
    spec, file = twin_spec(name, folder), write(LAYOUTS[layout](lora_of(folder)), tmp_path / "lora.safetensors")
    found = images_of(adapted(spec, (file, SCALE)), block)
    assert same(found, stock_images(not_folded(folder, (file, SCALE)), spec, block))
    assert not same(found, images_of(spec, block))


def test_several_in_order_with_scales_of_their_own(twin: Twin, tmp_path: Path, make_block: Make) -> None:
    folder, block = twin("flux-dev"), make_block(count=2)
    files = [write(tiny_loras.under("transformer")(lora_of(folder, seed)), tmp_path / f"{seed}.safetensors") for seed in (1, 2)]
    spec, both = twin_spec("flux-dev", folder), [(files[0], 0.8), (files[1], -0.4)]
    found = images_of(adapted(spec, *both), block)
    assert same(found, stock_images(not_folded(folder, *both), spec, block))
    assert not same(found, images_of(adapted(spec, both[0]), block))
    assert adapted(spec, *both).fingerprint() != adapted(spec, *both[::-1]).fingerprint()


@pytest.mark.ci
@pytest.mark.parametrize("sampler", ["pipeline", "multi_step", "one_step"])
def test_the_short_form_is_one_at_scale_1(twin: Twin, tmp_path: Path, make_block: Make, sampler: str) -> None:
    folder, block = twin("sd"), make_block(count=2)
    file = write(tiny_loras.under("unet")(lora_of(folder)), tmp_path / "lora.safetensors")
    fields: dict[str, Any] = {"sampler": sampler, "steps": 1, "scheduler": "folder" if sampler == "one_step" else "ddim"}
    short = ModelSpec(id="local/x", location=str(file), holds="lora", base=str(folder), **fields)
    long = adapted(ModelSpec(id="local/x", location=str(folder), **fields), (file, 1.0))
    assert np.array_equal(images_of(short, block), images_of(long, block))
    assert not np.array_equal(images_of(long, block), images_of(adapted(long, (file, 0.5)), block))


def text_lora(folder: Path, part: str, seed: int) -> State:
    """In the names of the time when CLIP's text tower was a level below."""
    encoder = getattr(stock_pipeline(folder), part)
    state = tiny_loras.random_lora(encoder, seed, tiny_loras.TEXT_LAYERS)
    return {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
@torch.no_grad()
def test_an_adapter_of_text_encoders_too(twin: Twin, tmp_path: Path, make_block: Make, layout: str) -> None:
    folder, block = twin("sdxl"), make_block(count=2)
    spec, unet = twin_spec("sdxl", folder), lora_of(folder)
    one, two = (text_lora(folder, part, seed) for seed, part in enumerate(("text_encoder", "text_encoder_2"), 1))
    if layout == "kohya":
        parts = zip(("lora_unet", "lora_te1", "lora_te2"), (unet, one, two), strict=True)
        states = [tiny_loras.kohya(state, head, equal=True) for head, state in parts]
    else:
        parts = zip(("unet", "text_encoder", "text_encoder_2"), (unet, one, two), strict=True)
        states = [tiny_loras.under(part)(state) for part, state in parts]
    file = write(states[0] | states[1] | states[2], tmp_path / "all.safetensors")
    stock, sampler = not_folded(folder, (file, SCALE)), load_sampler(adapted(spec, (file, SCALE)), "cpu", torch.float32)
    assert same(np.asarray(sampler.generate(block, Stopwatch())), stock_images(stock, spec, block))
    plain, tokens = stock_pipeline(folder), torch.tensor([[3, 1, 4, 1, 5]])
    for part in ("text_encoder", "text_encoder_2"):
        found, expected, before = (
            getattr(pipeline, part)(tokens, output_hidden_states=True).hidden_states[-1]
            for pipeline in (sampler.pipeline(), stock, plain)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert float((found - before).abs().max()) > 0.01


def test_pefts_folder_in_a_transformer(twin: Twin, tmp_path: Path, make_block: Make) -> None:
    """Also of a class that has no loader of adapters in diffusers."""
    folder, block = twin("pixart-sigma"), make_block(count=2)
    torch.manual_seed(0)
    pipeline = stock_pipeline(folder)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "proj"], use_rslora=True, init_lora_weights=False)
    wrapped = peft.get_peft_model(pipeline.transformer, config)
    wrapped.save_pretrained(tmp_path / "lora")
    spec = twin_spec("pixart-sigma", folder)
    expected = stock_images(pipeline, spec, block)  # its layers are peft's now
    assert same(images_of(adapted(spec, (tmp_path / "lora", 1.0)), block), expected)
    assert not same(images_of(spec, block), expected)


def test_what_diffusers_writes_says_its_own_alpha(twin: Twin, tmp_path: Path) -> None:
    folder = twin("qwen-image")
    pipeline = stock_pipeline(folder)
    config = peft.LoraConfig(r=2, lora_alpha=7, target_modules=["to_q", "img_mlp.net.2"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config, "own")
    lora, metadata = peft.utils.get_peft_model_state_dict(pipeline.transformer, adapter_name="own"), config.to_dict()
    type(pipeline).save_lora_weights(tmp_path, transformer_lora_layers=lora, transformer_lora_adapter_metadata=metadata)
    pipeline.fuse_lora(lora_scale=0.5)
    pipeline.unload_lora_weights()
    found = network_of(adapted(twin_spec("qwen-image", folder), (tmp_path, 0.5))).state_dict()
    for key, value in pipeline.transformer.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


def test_fluxs_authors_names_in_kohyas_layout(tmp_path: Path) -> None:
    """One layer of theirs is three of diffusers', by the sizes of the real network alone."""
    random, width = torch.Generator().manual_seed(0), 3072
    a, b = torch.randn(2, width, generator=random), torch.randn(3 * width, 2, generator=random)
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    state = {f"{layer}.lora_down.weight": a, f"{layer}.lora_up.weight": b, f"{layer}.alpha": torch.tensor(0.5)}
    target = Target(diffusers.FluxPipeline, ("transformer", "text_encoder"), {})
    found = read_adapter(write(state, tmp_path / "flux.safetensors"), target)["transformer"]
    weights = {f"transformer_blocks.0.attn.to_{side}.weight": torch.zeros(width, width) for side in "qkv"}
    for part, weight in zip((b @ a).chunk(3), fold_lora(weights, found.tensors, found.settings).values(), strict=True):
        torch.testing.assert_close(weight, 0.25 * part, rtol=1e-5, atol=1e-5)


FOREIGN: dict[str, tuple[str, str, Callable[[State], State], str]] = {
    "a UNet's for a transformer": ("sd", "flux-dev", tiny_loras.under("unet"), "another network than the FluxTransformer2D"),
    "kohya's of a UNet": ("sd", "sd3", tiny_loras.kohya, "StableDiffusion3Pipeline cannot read .*lora_unet_down_blocks"),
    "kohya's of a UNet, translated": ("sd", "qwen-image", tiny_loras.kohya, "QwenImage"),
    "kohya's of a transformer": ("z-image", "sd", tiny_loras.kohya, r"would leave out 1 of its \d+ layers .*t_embedder"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_an_adapter_of_another_architecture(twin: Twin, tmp_path: Path, case: str) -> None:
    donor, name, layout, says = FOREIGN[case]
    file = write(layout(lora_of(twin(donor))), tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match=says) as caught:
        load_sampler(adapted(twin_spec(name, twin(name)), (file, 1.0)), "cpu", torch.float32)
    assert "foreign.safetensors" in caught.value.message
    assert len(str(caught.value).splitlines()) <= 3


def test_an_adapter_of_the_same_layers_in_another_size(twin: Twin, tmp_path: Path) -> None:
    lora = lora_of(twin("flux-dev"))
    wide = {key: value.repeat(1, 2) if "lora_A" in key else value for key, value in lora.items()}
    file = write(tiny_loras.under("transformer")(wide), tmp_path / "wide.safetensors")
    with pytest.raises(InputError, match=r"is of a weight \(\d+, \d+\), found"):
        network_of(adapted(twin_spec("flux-dev", twin("flux-dev")), (file, 1.0)))


def test_what_a_translation_would_leave_out_is_refused(twin: Twin, tmp_path: Path) -> None:
    """diffusers drops FLUX's adapters of T5, and the alphas beside names of its own, without a word."""
    folder = twin("flux-dev")
    lora = tiny_loras.under("transformer")(lora_of(folder))
    layer = next(iter(lora)).removesuffix(".lora_A.weight")
    down = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value for key, value in lora.items()}
    foreign = {"text_encoders.t5xxl.transformer.x.lora_down.weight": torch.ones(2, 4),
               "text_encoders.t5xxl.transformer.x.lora_up.weight": torch.ones(4, 2)}  # fmt: skip
    file = write(down | foreign, tmp_path / "t5.safetensors")
    with pytest.raises(InputError, match=r"would leave out 1 of its \d+ layers .*t5xxl"):
        network_of(adapted(twin_spec("flux-dev", folder), (file, 1.0)))
    file = write(lora | {f"{layer}.alpha": torch.tensor(1.0)}, tmp_path / "alpha.safetensors")
    found = network_of(adapted(twin_spec("flux-dev", folder), (file, 1.0))).state_dict()
    weight = f"{layer.removeprefix('transformer.')}.weight"
    plain = network_of(adapted(twin_spec("flux-dev", folder), (write(lora, tmp_path / "plain.safetensors"), 1.0))).state_dict()
    assert not torch.equal(found[weight], plain[weight])


@pytest.mark.parametrize(
    "name", ["dora_scale", "lora_magnitude_vector.weight", "diff_b", "hada_w1_a", "lokr_w1", "lora_mid.weight"]
)
def test_what_is_no_plain_lora_in_a_transformer_is_refused_by_its_key(twin: Twin, tmp_path: Path, name: str) -> None:
    """diffusers would fold a DoRA in as a LoRA."""
    lora = tiny_loras.with_alphas(lora_of(twin("qwen-image")))
    layer = next(iter(lora)).removesuffix(".lora_down.weight")
    file = write(lora | {f"{layer}.{name}": torch.ones(4, 4)}, tmp_path / "more.safetensors")
    with pytest.raises(IntegrityError, match=rf"1 of \d+ tensors are no plain LoRA's \({layer}\.{name}\)") as caught:
        network_of(adapted(twin_spec("qwen-image", twin("qwen-image")), (file, 1.0)))
    assert caught.value.fix
