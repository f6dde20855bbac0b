"""Loading proved on the real architectures with random weights in float16 files.

Run one at a time: `pytest -m slow -n 0 -s tests/samplers/test_real_architectures.py -k 21_base`, `-k 15`, `-k xl`.
Gigabytes are written to the temporary folder, and taken away after each test. The pictures are noise, and small: what is proved
is that every tensor of every network finds its place, by the catalog's own entries, and that the chain runs to the pixels.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sbv2bench.latency.measure import measure_and_store
from sbv2bench.latency.plan import LatencyOptions, plan_latency
from sbv2bench.latency.table import print_latency
from sbv2bench.registry import Registry
from sbv2bench.report.terminal import stderr_console
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch
from sbv2bench.specs import ModelSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

GB = 2**30
MOST_MEMORY = 12 * GB
NOISE = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))  # a prime length, so that rows differ
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# Stable Diffusion XL base 1.0 (Podell et al. 2023, table 1): its UNet and its second text encoder, OpenCLIP's bigG.
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
BIG_G: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}


def architecture(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("reference_trainer.architectures") / f"{name}.json").read_text("utf-8"))
    return found


def weights_like(name: str, value: torch.Tensor) -> torch.Tensor:
    """Weights that keep a signal's size from layer to layer, so that a picture depends on its noise and on its caption."""
    size = value.numel()
    if not value.is_floating_point():
        return torch.arange(size).reshape(value.shape)
    if value.ndim < 2:  # a norm's weight, or a bias
        return torch.full(value.shape, 1.0 if name.endswith("weight") else 0.0, dtype=torch.float16)
    noise = NOISE / value[0].numel() ** 0.5
    return noise.half().repeat(size // len(noise) + 1)[:size].reshape(value.shape).clone()


def write_network(folder: Path, make: Callable[[], Any], parameters: int) -> None:
    """Write a network as float16 files of random weights, if it has so many parameters. make: builds it, without memory."""
    with torch.device("meta"):
        network = make()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    state = {key: weights_like(key, value) for key, value in network.state_dict().items()}
    text = "CLIPText" in type(network).__name__
    network.config.save_pretrained(folder) if text else network.save_config(folder)
    name = "model.safetensors" if text else "diffusion_pytorch_model.safetensors"
    save_file(state, folder / name, metadata={"format": "pt"})
    gc.collect()


def write_tokenizer(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)


def write_index(folder: Path, kind: str, scheduler: Any, **parts: str) -> None:
    scheduler.save_pretrained(folder / "scheduler")
    libraries = {name: ["transformers" if "CLIP" in cls else "diffusers", cls] for name, cls in parts.items()}
    index = {"_class_name": kind, "scheduler": ["diffusers", type(scheduler).__name__], **libraries}
    (folder / "model_index.json").write_text(json.dumps(index))


def write_sd(folder: Path, version: str) -> Path:
    """Stable Diffusion 2.1-base ("sd21-base") or 1.5 ("sd15")."""
    unet, text = {"sd21-base": (865_910_724, 340_387_840), "sd15": (859_520_964, 123_060_480)}[version]
    write_network(folder / "unet", lambda: UNet2DConditionModel.from_config(architecture(f"{version}-unet")), unet)
    config = CLIPTextConfig(**architecture(f"{version}-text_encoder"))
    write_network(folder / "text_encoder", lambda: CLIPTextModel(config), text)
    write_network(folder / "vae", lambda: AutoencoderKL.from_config(architecture("sd-vae")), 83_653_863)
    write_tokenizer(folder / "tokenizer")
    write_index(
        folder, "StableDiffusionPipeline", PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True, steps_offset=1),
        unet="UNet2DConditionModel", vae="AutoencoderKL", text_encoder="CLIPTextModel", tokenizer="CLIPTokenizer",
    )  # fmt: skip
    return folder


def write_sdxl(folder: Path) -> Path:
    write_network(folder / "unet", lambda: UNet2DConditionModel(**SDXL_UNET), 2_567_463_684)
    config = CLIPTextConfig(**architecture("sd15-text_encoder"))
    write_network(folder / "text_encoder", lambda: CLIPTextModel(config), 123_060_480)
    write_network(folder / "text_encoder_2", lambda: CLIPTextModelWithProjection(CLIPTextConfig(**BIG_G)), 694_659_840)
    vae = architecture("sd-vae") | {"sample_size": 1024, "scaling_factor": 0.13025}
    write_network(folder / "vae", lambda: AutoencoderKL.from_config(vae), 83_653_863)
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / name)
    write_index(
        folder, "StableDiffusionXLPipeline", EulerDiscreteScheduler(**SD_SCHEDULE, timestep_spacing="leading", steps_offset=1),
        unet="UNet2DConditionModel", vae="AutoencoderKL", text_encoder="CLIPTextModel", tokenizer="CLIPTokenizer",
        text_encoder_2="CLIPTextModelWithProjection", tokenizer_2="CLIPTokenizer",
    )  # fmt: skip
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def entry(name: str, folder: Path, **changes: Any) -> ModelSpec:
    """An entry of the catalog whose files are in a folder, at a resolution for a small machine."""
    fields = {"location": str(folder), "revision": None, "mirrors": (), "resolution": 64}
    return Registry.load().models[name].model_copy(update=fields | changes)


def images_of(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> Any:
    start = time.perf_counter()
    sampler = load_sampler(spec, "cpu", dtype)
    loaded = time.perf_counter()
    block = PromptBlock(0, 0, 2, ("a red circle", "blue star"), (1, 2))
    images = sampler.generate(block, Stopwatch())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{spec.id}: load {loaded - start:.1f} s, two images {time.perf_counter() - loaded:.1f} s, peak {peak / GB:.2f} GB",
        flush=True,
    )
    assert images.shape == (2, 64, 64, 3)
    assert images.std(axis=(1, 2)).mean() > 5  # something is to be seen
    assert (images[0] != images[1]).mean() > 0.01  # a one-step picture of noise is mostly saturated
    assert peak < MOST_MEMORY
    return images


def write_lora(path: Path, modules: dict[str, tuple[int, int]], rank: int = 4) -> Path:
    """A file in kohya's layout, as LCM-LoRA and Hyper-SD are: module -> (in, out)."""
    state = {}
    for module, (inputs, outputs) in modules.items():
        name = f"lora_unet_{module.replace('.', '_')}"
        state[f"{name}.lora_down.weight"] = torch.randn(rank, inputs).half()
        state[f"{name}.lora_up.weight"] = torch.randn(outputs, rank).half()
        state[f"{name}.alpha"] = torch.tensor(8.0)
    save_file(state, path)
    return path


def test_stable_diffusion_21_base(place: Path) -> None:
    """The teacher, the paper's one-step formula, a student's unet_ema/ on a base, and TAESD as its decoder."""
    folder = write_sd(place / "sd21", "sd21-base")
    teacher = images_of(entry("full/sd21", folder, steps=2))
    turbo = images_of(entry("full/sd-turbo", folder))
    assert (teacher != turbo).mean() > 0.1
    write_network(place / "taesd", lambda: AutoencoderTiny.from_config(architecture("taesd")), 2_445_063)
    images_of(entry("full/sd-turbo-taesd", folder, vae=str(place / "taesd")))
    (place / "released").mkdir()
    shutil.copytree(folder / "unet", place / "released" / "unet_ema", copy_function=link)
    merged = images_of(entry("full/sbv2-merged", place / "released", base=str(folder)))
    assert (merged == turbo).all()


def test_latency_of_stable_diffusion_21(place: Path) -> None:
    """`latency` on the architecture: one step, the same through TAESD, and the teacher's 25 guided steps.

    On a CPU at 64 px, a model at a time, since all would not fit in memory; on a GPU at 512 px, interleaved, batch 1 and 32,
    eager and compiled. SD21_LATENCY_RESULTS=FOLDER keeps the result files.
    """
    results = Path(os.environ.get("SD21_LATENCY_RESULTS") or place / "results").absolute()
    folder = write_sd(place / "sd21", "sd21-base")
    write_network(place / "taesd", lambda: AutoencoderTiny.from_config(architecture("taesd")), 2_445_063)
    on_gpu = torch.cuda.is_available()
    registry = Registry.load()
    for name, source, decoder in (
        ("one-step", "full/sd-turbo", ""),
        ("one-step-taesd", "full/sd-turbo-taesd", str(place / "taesd")),
        ("25-steps", "full/sd21-cfg4.5", ""),
    ):
        own = {"id": f"local/sd21-random-{name}", "family": "local", "vae": decoder, "resolution": 512 if on_gpu else 64}
        own |= {"licence": "random weights"}
        registry.add("model", entry(source, folder, **own, description="Stable Diffusion 2.1-base's networks, random weights"))
    for compiled in (False, True) if on_gpu else (False,):
        options = LatencyOptions.validated(batch_sizes=(1, 32) if on_gpu else (1,), compiled=compiled, results=results)
        plan = plan_latency(["local/sd21-random-one-step", "local/sd21-random-25-steps"], options, registry)
        rows = [row for row in plan.rows if "25-steps" not in row.id or not row.vae]
        for together in (rows,) if on_gpu else ([row] for row in rows):
            stored = measure_and_store(replace(plan, rows=tuple(together)), registry)
            print_latency(stderr_console(), stored)
            gc.collect()
            for result, _ in stored:
                text = result.batches[0].flop["text"] / (2 if "25" in result.model.id else 1)
                assert text == pytest.approx(45e9, rel=0.05)  # 340 M parameters, 77 tokens
                assert result.denoiser_calls == (50 if "25" in result.model.id else 1)
                assert set(result.batches[0].stages) == {"text", "denoise", "decode"}


def link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def test_stable_diffusion_15(place: Path) -> None:
    """The teacher by DDIM, a UNet's file on it (DMD2), an adapter's file (LCM-LoRA), and its UNet as a rectified flow."""
    folder = write_sd(place / "sd15", "sd15")
    teacher = images_of(entry("full/sd15-ddim", folder, steps=2))
    link(str(folder / "unet" / "diffusion_pytorch_model.safetensors"), str(place / "dmd2.safetensors"))
    images_of(entry("full/dmd2-sd15", place / "dmd2.safetensors", base=str(folder)))
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    lora = write_lora(place / "lcm.safetensors", {f"{block}.to_k": (768, 320), f"{block}.to_q": (320, 320)})
    adapted = images_of(entry("full/lcm-lora-sd15", lora, base=str(folder), steps=2))
    assert (teacher != adapted).mean() > 0.1
    images_of(entry("full/instaflow", folder))


def test_stable_diffusion_xl(place: Path) -> None:
    """Its own pipeline in float16: SDXL-Turbo's one step, a UNet's file at t = 399 (DMD2), and an adapter's file."""
    folder = write_sdxl(place / "sdxl")
    turbo = images_of(entry("full/sdxl-turbo", folder), torch.float16)
    gc.collect()
    link(str(folder / "unet" / "diffusion_pytorch_model.safetensors"), str(place / "dmd2.safetensors"))
    swapped = images_of(entry("full/dmd2-sdxl-4step", place / "dmd2.safetensors", base=str(folder)), torch.float16)
    gc.collect()
    assert (turbo != swapped).mean() > 0.1
    block = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    lora = write_lora(place / "dmd2-lora.safetensors", {f"{block}.to_k": (2048, 640), f"{block}.to_q": (640, 640)})
    images_of(entry("full/dmd2-sdxl-4step-lora", lora, base=str(folder)), torch.float16)
