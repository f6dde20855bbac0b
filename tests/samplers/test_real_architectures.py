"""Loading proved on the real architectures with random weights in float16 files.

Run one at a time: `pytest -m slow -n 0 -s tests/samplers/test_real_architectures.py -k 21_base`, `-k 15`, `-k xl`.
Gigabytes are written to the temporary folder, and taken away after each test. The pictures are noise, and small: what is proved
is that every tensor of every network finds its place, by the catalog's own entries, and that the chain runs to the pixels.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import write_sd, write_sdxl, write_taesd
from safetensors.torch import save_file

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
    write_taesd(place / "taesd")
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
    write_taesd(place / "taesd")
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
