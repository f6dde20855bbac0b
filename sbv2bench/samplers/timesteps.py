"""The timesteps at which a scheduler asks its network, proved before the first image."""

from __future__ import annotations

import copy
import inspect

import torch
from diffusers import SchedulerMixin

from sbv2bench.errors import InputError
from sbv2bench.samplers.schedulers import randomness
from sbv2bench.specs import ModelSpec

# What schedulers of diffusers raise over numbers that they cannot take.
_REFUSALS = (ValueError, IndexError, TypeError, AssertionError, AttributeError, ZeroDivisionError, RuntimeError)


def set_timesteps(scheduler: SchedulerMixin, spec: ModelSpec, device: torch.device | str | None = None) -> None:
    """Ready a scheduler for one denoising by the spec's steps, or at its very timesteps.

    Raises InputError where the scheduler cannot, or would ask outside of its schedule; with what it can, if it is a matter of
    their number.
    """
    kind = type(scheduler).__name__
    if spec.timesteps:
        if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
            raise InputError(f"{spec.id}: {kind} cannot be asked at timesteps {list(spec.timesteps)}")
        if wrong := _refused(scheduler, len(spec.timesteps), spec.timesteps, device):
            raise InputError(f"{spec.id}: timesteps {list(spec.timesteps)}: {wrong}")
        return
    wrong = _refused(scheduler, spec.steps, (), device)
    if not wrong:
        return
    fewer = next((n for n in range(spec.steps - 1, 0, -1) if not _refused(copy.deepcopy(scheduler), n)), None)
    more = None if fewer else next((n for n in range(spec.steps + 1, 101) if not _refused(copy.deepcopy(scheduler), n)), None)
    if fewer or more:
        bound = f"{kind} has at most {fewer}" if fewer else f"{kind} needs at least {more}"
        detail = f"{wrong}; " if wrong.startswith("t = ") else ""
        raise InputError(f"{spec.id}: steps {spec.steps}: {detail}{bound}", f"--steps {fewer or more}")
    raise InputError(f"{spec.id}: steps {spec.steps}: {wrong}")


def count_calls(scheduler: SchedulerMixin) -> int:
    """How often a scheduler that is readied asks its network for an image."""
    # SCM's last timestep is where it arrives (diffusers' pipeline_sana_sprint.py).
    return len(scheduler.timesteps) - ("intermediate_timesteps" in inspect.signature(scheduler.set_timesteps).parameters)


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
    scheduler: SchedulerMixin, steps: int, timesteps: tuple[int, ...] = (), device: torch.device | str | None = None
) -> str:
    """Why a scheduler cannot be asked so, "" where it can; it is readied then."""
    trained = int(scheduler.config.get("num_train_timesteps") or 0)
    arguments: dict[str, object] = {"timesteps": list(timesteps)} if timesteps else {"num_inference_steps": steps}
    if scheduler.config.get("use_dynamic_shifting"):
        arguments["mu"] = 1.0  # a pipeline finds its own from the resolution: it moves timesteps, and not their number
    if "intermediate_timesteps" in inspect.signature(scheduler.set_timesteps).parameters and steps != 2:
        arguments["intermediate_timesteps"] = None
    if trained and steps > trained:
        return f"it was trained on {trained} timesteps"
    if list(timesteps) != sorted({*timesteps}, reverse=True):
        return "expected each below the one before"
    discrete = hasattr(scheduler, "alphas_cumprod") and scheduler.config.get("timestep_type") != "continuous"
    outside = [t for t in timesteps if not 0 <= t < trained]
    try:
        scheduler.set_timesteps(**arguments, device=device)
    except _REFUSALS as error:
        return f"t = {outside[0]} is outside 0..{trained - 1}" if discrete and outside else _said(error)
    asked = [float(t) for t in scheduler.timesteps]
    if discrete and not all(0 <= t <= trained - 1 for t in (*asked, *timesteps)):
        return f"t = {next(t for t in (*asked, *timesteps) if not 0 <= t <= trained - 1):g} is outside 0..{trained - 1}"
    if discrete and len(asked) > 1 and len({*asked}) == 1:
        return f"{type(scheduler).__name__} would ask {steps} times at t = {asked[0]:g}"
    return ""


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
