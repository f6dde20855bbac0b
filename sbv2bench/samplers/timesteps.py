"""The timesteps or noise levels at which a scheduler asks its network, proved before the first image."""

from __future__ import annotations

import copy
import inspect
import math

import torch
from diffusers import SchedulerMixin

from sbv2bench.errors import InputError
from sbv2bench.samplers.schedulers import randomness
from sbv2bench.specs import ModelSpec

# What schedulers of diffusers raise over numbers that they cannot take.
_REFUSALS = (ValueError, IndexError, TypeError, AssertionError, AttributeError, ZeroDivisionError, RuntimeError)


def set_timesteps(scheduler: SchedulerMixin, spec: ModelSpec, device: torch.device | str | None = None) -> None:
    """Ready a scheduler for one denoising by the spec's steps, or at its very timesteps or sigmas.

    Where its shift depends on the resolution, which only the pipeline knows, one is taken that moves levels and not their number.
    Raises InputError where the scheduler cannot, or would ask outside of its schedule; with what it can, if it is a matter of
    their number.
    """
    kind = type(scheduler).__name__
    for name, levels in (("timesteps", spec.timesteps), ("sigmas", spec.sigmas)):
        if levels:
            if name not in inspect.signature(scheduler.set_timesteps).parameters:
                raise InputError(f"{spec.id}: {kind} cannot be asked at {name} {list(levels)}")
            if wrong := _refused(scheduler, spec.steps, device=device, **{name: levels}):
                raise InputError(f"{spec.id}: {name} {list(levels)}: {wrong}")
            if name == "sigmas" and (asked := count_levels(scheduler)) != spec.steps:
                fix = f"steps: {asked} in its spec" if asked > spec.steps or levels[-1] == 0 else "end its sigmas with 0.0"
                raise InputError(f"{spec.id}: steps {spec.steps}, and {kind} asks at {asked} of sigmas {list(levels)}", fix)
            return
    wrong = _refused(scheduler, spec.steps, device=device)
    if not wrong:
        return
    fewer = next((n for n in range(spec.steps - 1, 0, -1) if not _refused(copy.deepcopy(scheduler), n)), None)
    more = None if fewer else next((n for n in range(spec.steps + 1, 101) if not _refused(copy.deepcopy(scheduler), n)), None)
    if fewer or more:
        bound = f"{kind} has at most {fewer}" if fewer else f"{kind} needs at least {more}"
        detail = f"{wrong}; " if wrong.startswith("t = ") else ""
        raise InputError(f"{spec.id}: steps {spec.steps}: {detail}{bound}", f"--steps {fewer or more}")
    raise InputError(f"{spec.id}: steps {spec.steps}: {wrong}")


def arrives(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler's last timestep is where it arrives, as SCM's (diffusers' pipeline_sana_sprint.py)."""
    return "intermediate_timesteps" in inspect.signature(scheduler.set_timesteps).parameters


def count_calls(scheduler: SchedulerMixin) -> int:
    """How often a scheduler that is readied asks its network for an image."""
    return len(scheduler.timesteps) - arrives(scheduler)


def count_levels(scheduler: SchedulerMixin) -> int:
    """At how many noise levels a scheduler that is readied asks: some, as Heun's, ask twice at one."""
    return len({float(t) for t in scheduler.timesteps}) - arrives(scheduler)


def check_walk(scheduler: SchedulerMixin, spec: ModelSpec, channels: int) -> None:
    """Raises InputError where a scheduler that is readied would fail under way, or asks its single step where no noise is.

    It is walked through on zeros of one pixel, float32 [1, channels, 1, 1]; its state is as after a denoising.
    """
    first, kind = float(scheduler.timesteps[0]), type(scheduler).__name__
    # Leading spacing puts a single step at t = 1, where nothing is left to denoise.
    if spec.steps == 1 and not spec.timesteps and first < scheduler.config.num_train_timesteps / 2:
        raise InputError(
            f"{spec.id}: its scheduler asks a single step at t = {int(first)}, which pure noise is not",
            "write scheduler: ddim in its spec (trailing timesteps)",
        )
    latents, drawn = torch.zeros(1, channels, 1, 1), randomness(scheduler, [torch.Generator()])
    t: float | torch.Tensor = first
    try:
        for t in scheduler.timesteps.cpu():
            latents = scheduler.step(scheduler.scale_model_input(latents, t), t, latents, **drawn).prev_sample
    except _REFUSALS as error:
        raise InputError(f"{spec.id}: {kind} fails at t = {float(t):g} of {spec.steps} steps: {_said(error)}") from error


def _refused(
    scheduler: SchedulerMixin,
    steps: int,
    *,
    timesteps: tuple[int | float, ...] = (),
    sigmas: tuple[float, ...] = (),
    device: torch.device | str | None = None,
) -> str:
    """Why a scheduler cannot be asked so, "" where it can; it is readied then."""
    trained = int(scheduler.config.get("num_train_timesteps") or 0)
    arguments: dict[str, object] = {"num_inference_steps": steps}
    if sigmas:
        arguments = {"sigmas": list(sigmas)}
    if timesteps:
        arguments = {"timesteps": list(timesteps)}
    if scheduler.config.get("use_dynamic_shifting"):
        arguments["mu"] = 1.0
    if arrives(scheduler) and timesteps:
        arguments |= {"num_inference_steps": steps, "timesteps": [*timesteps, 0.0], "max_timesteps": None}
    if arrives(scheduler) and (timesteps or steps != 2):
        arguments["intermediate_timesteps"] = None
    if trained and steps > trained:
        return f"it was trained on {trained} timesteps"
    if any(list(levels) != sorted({*levels}, reverse=True) for levels in (timesteps, sigmas)):
        return "expected each below the one before"
    discrete = hasattr(scheduler, "alphas_cumprod") and scheduler.config.get("timestep_type") != "continuous"
    outside = [t for t in timesteps if not 0 <= t < trained]
    try:
        scheduler.set_timesteps(**arguments, device=device)
    except _REFUSALS as error:
        return f"t = {outside[0]} is outside 0..{trained - 1}" if discrete and outside else _said(error)
    asked = [float(t) for t in scheduler.timesteps]
    if not all(map(math.isfinite, asked)):  # stretched to a last noise level that a single step is far from (shift_terminal)
        return f"t = {next(t for t in asked if not math.isfinite(t))}"
    if discrete and not all(0 <= t <= trained - 1 for t in (*asked, *timesteps)):
        return f"t = {next(t for t in (*asked, *timesteps) if not 0 <= t <= trained - 1):g} is outside 0..{trained - 1}"
    if discrete and len(asked) > 1 and len({*asked}) == 1:
        return f"{type(scheduler).__name__} would ask {steps} times at t = {asked[0]:g}"
    return ""


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
