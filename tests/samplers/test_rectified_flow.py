"""A rectified flow is sampled along its velocity from t = 1000, in one step as InstaFlow is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sbv2bench.errors import InputError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, initial_noise
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]


@pytest.mark.parametrize(("steps", "scale"), [(1, 0.0), (4, 1.5)])
def test_images_are_euler_steps_of_the_velocity(epsilon_folder: Path, make_block: Make, steps: int, scale: float) -> None:
    spec = ModelSpec(id="local/flow", sampler="rectified_flow", location=str(epsilon_folder), steps=steps, guidance_scale=scale)
    model, block = load_sampler(spec, "cpu", torch.float32), make_block()
    parts, guided = model.components, scale > 1  # type: ignore[attr-defined]
    assert model.network_calls == steps * (1 + guided)
    x = initial_noise(generators(block.noise_seeds), (4, 8, 8))
    with torch.no_grad():
        text, empty = parts.encode_text(block.captions, False), parts.encode_text([""] * len(block.captions), False)
        for t in [1000.0 * (steps - i) / steps for i in range(steps)]:  # the first is 1000, not a diffusion model's 999
            velocity = parts.unet(x, t, encoder_hidden_states=text).sample
            if guided:
                away = parts.unet(x, t, encoder_hidden_states=empty).sample
                velocity = away + scale * (velocity - away)
            x = x + velocity / steps
        pixels = parts.vae.decode(x / 0.18215).sample
    expected = 255 * (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(model.generate(block, Stopwatch()) - expected).max() <= 0.52
    assert expected.std() > 5
    with pytest.raises(InputError, match="no pipeline"):
        model.pipeline()
