"""Pipelines whose denoiser is a transformer: every tensor of every part is used, or the part is refused by name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from tiny_models import write_tiny_sd3

from sbv2bench.errors import IntegrityError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch, to_uint8
from sbv2bench.specs import ModelSpec

DAMAGE: dict[str, Callable[[dict[str, torch.Tensor], str], object]] = {
    "missing": lambda state, key: state.pop(key),
    "extra": lambda state, key: state.update({"nobody.weight": torch.ones(3)}),
    "reshaped": lambda state, key: state.update({key: torch.ones(3, 5)}),
}
PARTS = {"transformer": "diffusion_pytorch_model", "text_encoder_2": "model", "vae": "diffusion_pytorch_model"}


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(id="local/x", sampler="pipeline", location=str(folder), steps=2, guidance_scale=3.0)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd3(tmp_path_factory.mktemp("sd3") / "model")


def test_its_images_are_those_of_diffusers(sd3: Path, make_block: Callable[..., PromptBlock]) -> None:
    block = make_block()
    found = load_sampler(spec(sd3), "cpu", torch.float32).generate(block, Stopwatch())
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    rngs = [torch.Generator().manual_seed(seed) for seed in block.noise_seeds]
    expected = pipeline(
        list(block.captions), num_inference_steps=2, guidance_scale=3.0, generator=rngs, output_type="pt", height=found.shape[1],
        width=found.shape[2],
    ).images  # fmt: skip
    assert np.array_equal(found, to_uint8(expected))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_tensor_that_does_not_fit_is_refused_by_its_part(sd3: Path, tmp_path: Path, part: str, damage: str) -> None:
    folder = Path(shutil.copytree(sd3, tmp_path / "model"))
    file = folder / part / f"{PARTS[part]}.safetensors"
    state = load_file(file)
    key = next(key for key in sorted(state) if state[key].ndim == 2)
    DAMAGE[damage](state, key)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError) as caught:
        load_sampler(spec(folder), "cpu", torch.float32)
    assert str(folder / part) in str(caught.value)
    assert ("nobody.weight" if damage == "extra" else key) in str(caught.value)


@pytest.mark.ci
def test_loading_and_long_captions_make_no_noise(sd3: Path) -> None:
    """What a library says of captions that are cut, the result says better."""
    code = (
        "import torch\nfrom sbv2bench.samplers import load_sampler\nfrom sbv2bench.specs import ModelSpec\n"
        "from sbv2bench.samplers.base import PromptBlock, Stopwatch\n"
        f"spec = ModelSpec(id='local/x', sampler='pipeline', location={str(sd3)!r}, steps=2, guidance_scale=1.0)\n"
        "sampler = load_sampler(spec, 'cpu', torch.float32)\n"
        "sampler.generate(PromptBlock(0, 0, 2, ('a red circle ' * 30,) * 2, (1, 2)), Stopwatch())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch_dtype" not in done.stderr and "truncated" not in done.stderr and "Token indices" not in done.stderr
