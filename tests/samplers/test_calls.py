"""Forward passes are counted where they happen: on the denoiser, by thread, and for one block."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from running import AsksMore
from tiny_models import sd_scheduler, tiny_unet, write_tiny_pipeline
from twins import twin_spec, write_twin

from sbv2bench.errors import IntegrityError
from sbv2bench.results.records import ForwardPasses, Passes
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch
from sbv2bench.samplers.calls import PassCounter, check_declared
from sbv2bench.specs import ModelSpec

Make = Callable[..., PromptBlock]


def sampler(folder: Path, kind: str, **fields: Any) -> Sampler:
    spec = ModelSpec(id="local/tiny", location=str(folder), sampler=kind, **fields)
    return load_sampler(spec, "cpu", torch.float32)


def counted(model: Sampler, block: PromptBlock) -> Passes | None:
    with PassCounter.of(model) as counter, counter.block(len(block.captions)):
        model.generate(block, Stopwatch())
    return counter.found


@pytest.mark.parametrize(
    ("kind", "fields", "rows"),
    [
        ("one_step", {"guidance_scale": 1.0}, 1),
        ("one_step", {"guidance_scale": 2.0}, 2),
        ("multi_step", {"guidance_scale": 2.0, "steps": 3}, 6),
        ("pipeline", {"guidance_scale": 2.0, "steps": 3}, 6),
        ("rectified_flow", {"guidance_scale": 1.0, "steps": 2}, 2),
    ],
)
def test_every_way_to_sample_is_counted(v_folder: Path, make_block: Make, kind: str, fields: dict[str, Any], rows: int) -> None:
    model, steps = sampler(v_folder, kind, **fields), fields.get("steps", 1)
    found = counted(model, make_block(count=2, size=3))
    assert found == Passes(calls=steps, rows=3 * rows, levels=steps, images=3)
    assert found.recorded() == ForwardPasses(calls=steps, rows_an_image=rows)
    assert model.network_calls == rows
    check_declared(model, found)


DESIGN = {"PNDM": (4, 3), "HeunDiscrete": (5, 3), "KDPM2Discrete": (5, 5), "UniPCMultistep": (3, 3)}  # calls, levels of 3 steps


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["multi_step", "pipeline"])
@pytest.mark.parametrize("name", DESIGN)
def test_levels_are_not_calls(tmp_path: Path, make_block: Make, kind: str, name: str) -> None:
    """PNDM and Heun ask twice at a level; KDPM2 asks between its steps by design, which is no error."""
    calls, levels = DESIGN[name]
    own = {"skip_prk_steps": True} if name == "PNDM" else {}
    made = sd_scheduler("epsilon", getattr(diffusers, f"{name}Scheduler"), steps_offset=0, **own)
    model = sampler(write_tiny_pipeline(tmp_path / "m", "epsilon", 4, scheduler=made), kind, steps=3)
    found = counted(model, make_block(count=1))
    assert found == Passes(calls=calls, rows=calls, levels=levels, images=1)
    check_declared(model, found)


def test_half_precision_does_not_blur_levels(tmp_path: Path, make_block: Make) -> None:
    """FLUX.1 tells its network timesteps in bfloat16, in which the first of many shifted ones are the same."""
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=9.0)
    spec = twin_spec("flux-schnell", write_twin("flux-schnell", tmp_path / "m", scheduler=flow), steps=40)
    flow.set_timesteps(40)
    assert len({*flow.timesteps.bfloat16().tolist()}) < 40
    found = counted(load_sampler(spec, "cpu", torch.bfloat16), make_block(count=1))
    assert found == Passes(calls=40, rows=40, levels=40, images=1)


def test_another_number_than_declared_is_an_error_that_names_both(v_folder: Path, make_block: Make) -> None:
    model: Any = AsksMore(sampler(v_folder, "multi_step", steps=3))
    with pytest.raises(IntegrityError, match="NFE 3 is declared, and 4 noise levels in 4 calls were counted\nfix: steps: 4"):
        check_declared(model, counted(model, make_block(count=1)))


def test_threads_are_counted_apart_and_the_hook_goes(v_folder: Path, make_block: Make) -> None:
    model = sampler(v_folder, "multi_step", steps=2)

    def work(number: int) -> None:
        with counter.block(2) if number % 2 else counter.block(3):
            model.generate(make_block(count=2 if number % 2 else 3), Stopwatch())

    with PassCounter.of(model) as counter, ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(9)))
    assert counter.found is not None and counter.found.rows_an_image == 2
    unet = model.networks()["unet"]  # type: ignore[attr-defined]
    assert not unet._forward_pre_hooks
    with counter.block(2):
        model.generate(make_block(count=2), Stopwatch())
    assert counter.found.calls == 2


def test_two_networks_are_counted_together_and_a_level_once() -> None:
    """One for noisy levels and one for the others, or one for each half of guidance."""
    first, second = tiny_unet(), tiny_unet()
    text = torch.zeros(1, 4, 16)
    with PassCounter({"transformer": first, "transformer_2": second, "vae": torch.nn.Linear(1, 1)}) as counter, counter.block(1):
        for network, level in ((first, 900), (second, 900), (second, 100)):
            network(torch.zeros(1, 8, 8, 8), level, text)
    assert counter.found == Passes(calls=3, rows=3, levels=2, images=1)


def test_a_sampler_that_shows_no_network_is_not_counted(make_block: Make) -> None:
    class Plugin:
        spec = ModelSpec(id="local/plugin", sampler="plugin", steps=4)
        resolution, network_calls = 32, 4

        def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> None:
            pass

    model: Any = Plugin()
    assert counted(model, make_block()) is None
    check_declared(model, None)


@pytest.mark.parametrize("stored", [None, {}, {"calls": 1}, {"calls": "a", "rows": 1, "levels": 1, "images": 1}, 7])
def test_a_manifest_without_passes_has_none(stored: object) -> None:
    assert Passes.of_manifest(stored) is None
    whole = Passes(calls=2, rows=8, levels=2, images=2)
    assert Passes.of_manifest(whole.model_dump()) == whole
