"""A scheduler's limits are found before the first image, with what is allowed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from sbv2bench.errors import InputError
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.schedulers import make_scheduler
from sbv2bench.samplers.timesteps import check_walk, count_calls, set_timesteps
from sbv2bench.specs import ModelSpec

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
KINDS = ("multi_step", "pipeline")


def spec(folder: Path | str = "x", sampler: str = "multi_step", **fields: Any) -> ModelSpec:
    return ModelSpec(id="local/x", sampler=sampler, location=str(folder), **{"guidance_scale": 1.0} | fields)


def load(model: ModelSpec) -> Any:
    return load_sampler(model, "cpu", torch.float32)


LIMITS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"scheduler": "lcm", "steps": 51}, "steps 51: LCMScheduler has at most 50", "--steps 50"),
    ({"scheduler": "tcd", "steps": 1000}, "steps 1000: TCDScheduler has at most 50", "--steps 50"),
    (
        {"scheduler": "ddim", "timestep_spacing": "leading", "steps": 1000},
        r"steps 1000: t = 1000 is outside 0\.\.999; DDIMScheduler has at most 999",
        "--steps 999",
    ),
    ({"scheduler": "euler", "timestep_spacing": "leading", "steps": 1000}, r"t = 1000 is outside 0\.\.999", "--steps 999"),
    ({"scheduler": "dpmsolver++", "timestep_spacing": "leading", "steps": 1000}, "DPMSolverMultistepScheduler has at most", None),
    ({"scheduler": "dpmsolver++", "timestep_spacing": "leading", "steps": 999}, r"t = 1000 is outside 0\.\.999", None),
    ({"scheduler": "lcm", "timesteps": (1500, 499), "steps": 2}, r"timesteps \[1500, 499\]: t = 1500 is outside 0\.\.999", None),
    ({"scheduler": "euler", "timesteps": (1500, 499), "steps": 2}, r"t = 1500 is outside 0\.\.999", None),
    ({"scheduler": "euler", "timesteps": (999, -5), "steps": 2}, r"t = -5 is outside 0\.\.999", None),
    ({"scheduler": "tcd", "timesteps": (1000,), "steps": 1}, r"t = 1000 is outside 0\.\.999", None),
    ({"scheduler": "lcm", "timesteps": (499, 999), "steps": 2}, "expected each below the one before", None),
    ({"scheduler": "dpmsolver++", "timesteps": (999, 999, 0), "steps": 3}, "expected each below the one before", None),
    ({"scheduler": "ddim", "timesteps": (999, 499), "steps": 2}, "DDIMScheduler cannot be asked at timesteps", None),
]


@pytest.mark.ci
@pytest.mark.parametrize(("fields", "says", "fix"), LIMITS)
@pytest.mark.parametrize("sampler", KINDS)
def test_a_schedulers_own_limit_is_a_users_error(
    v_folder: Path, fields: dict[str, Any], says: str, fix: str | None, sampler: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load(spec(v_folder, sampler, **fields))
    assert fix is None or caught.value.fix == fix
    assert len(str(caught.value).splitlines()) <= 3
    if caught.value.fix:  # what it says gets further
        load(spec(v_folder, sampler, **fields | {"steps": int(caught.value.fix.removeprefix("--steps "))}))


@pytest.mark.ci
@pytest.mark.parametrize("sampler", KINDS)
def test_a_schedule_that_is_shorter(v_folder: Path, tmp_path: Path, sampler: str) -> None:
    """Trained on 100 timesteps: Euler would take 200 leading steps at t = 1 in silence, DDIM refuses by itself."""
    folder = Path(shutil.copytree(v_folder, tmp_path / "m"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 100}))
    for scheduler in ("ddim", "euler", "dpmsolver++"):
        for spacing in ("leading", "trailing"):
            with pytest.raises(InputError, match=r"steps 200: .* has at most (100|99|98)"):
                load(spec(folder, sampler, scheduler=scheduler, timestep_spacing=spacing, steps=200))
    load(spec(folder, sampler, scheduler="ddim", steps=100))
    with pytest.raises(InputError, match=r"t = 999 is outside 0\.\.99"):
        load(spec(folder, sampler, scheduler="lcm", timesteps=(999, 50), steps=2))


@pytest.mark.parametrize("sampler", KINDS)
def test_a_single_step_where_nothing_is_left_to_denoise(v_folder: Path, sampler: str) -> None:
    with pytest.raises(InputError, match="a single step at t = 1, which pure noise is not"):
        load(spec(v_folder, sampler, scheduler="ddim", timestep_spacing="leading", steps=1))


def test_a_least_number_of_steps() -> None:
    """PNDM with its Runge-Kutta start needs four."""
    scheduler = diffusers.PNDMScheduler(**SD)
    with pytest.raises(InputError, match="steps 1: PNDMScheduler needs at least 4"):
        set_timesteps(copy.deepcopy(scheduler), spec(steps=1))
    set_timesteps(scheduler, spec(steps=4))


def test_what_a_scheduler_cannot_walk_is_refused() -> None:
    """A flow's scheduler in a diffusion model's folder: it does not scale inputs."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    set_timesteps(scheduler, spec(steps=4))
    with pytest.raises(InputError, match="FlowMatchEulerDiscreteScheduler fails at t = 1000 of 4 steps"):
        check_walk(scheduler, spec(steps=4), 4)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_schedulers_that_want_to_be_told_more(steps: int) -> None:
    """FLUX.1-dev's shift, and SANA-Sprint's second timestep, which its two steps alone have."""
    shifting = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    set_timesteps(shifting, spec(steps=steps))
    assert count_calls(shifting) == steps
    sprint = diffusers.SCMScheduler()
    set_timesteps(sprint, spec(steps=steps))
    assert count_calls(sprint) == steps


WALKED = (
    *("DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "UniPCMultistep"),
    *("DPMSolverSinglestep", "DEISMultistep", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DDPM", "IPNDM"),
)


@pytest.mark.parametrize("kind", WALKED)
def test_ordinary_steps_of_every_kind_are_walked(kind: str) -> None:
    own = getattr(diffusers, f"{kind}Scheduler")
    settings = {key: value for key, value in SD.items() if kind != "IPNDM" or key == "num_train_timesteps"}
    scheduler = make_scheduler(spec(steps=7), own(**settings))
    set_timesteps(scheduler, spec(steps=7))
    check_walk(scheduler, spec(steps=7), 4)
