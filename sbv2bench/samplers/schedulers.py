"""Schedulers of diffusers: the folder's own, the one that a spec asks for, and one that jumps to x_0."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, SchedulerMixin
from safetensors import SafetensorError

from sbv2bench.data.assets import read_json
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.specs import ModelSpec, PredictionType

NAMED = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}
_UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)


def load_scheduler(folder: Path) -> SchedulerMixin:
    """The scheduler of a folder. Raises InputError where it would clamp latents, as if they were pixels in [-1, 1]."""
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise PrerequisiteError(f"{path}: not found", "copy or download the whole model")
    config = read_json(path)
    name = config.get("_class_name")
    found = getattr(diffusers, str(name), None)
    if not (inspect.isclass(found) and issubclass(found, SchedulerMixin)):
        raise InputError(f"{path}: _class_name is {name!r}, expected a scheduler of diffusers {diffusers.__version__}")
    kind: Any = found
    with reading(path):
        scheduler = kind.from_config(config)
    # DDPM and DDIM clamp unless their config says no: an absent key is a yes.
    if clamping := [key for key in ("clip_sample", "thresholding") if scheduler.config.get(key)]:
        raise InputError(
            f"{path}: {clamping[0]} is true (or absent, which {name} reads as true)\n"
            "it would clamp latents to a range that only pixels have, expected false",
            f'write "{clamping[0]}": false in it',
        )
    return scheduler


def make_scheduler(spec: ModelSpec, own: SchedulerMixin) -> SchedulerMixin:
    """A new scheduler as a spec asks for it. own: the folder's.

    folder: as it is, but for what StableDiffusionPipeline amends in old configs (steps_offset is 1). ddim, dpmsolver++,
    euler: diffusers' class made from the folder's config, with trailing timesteps, which start at the noisiest step
    whatever their number (Lin et al. 2023, section 3.3).
    """
    changes: dict[str, Any] = {} if spec.prediction_type is None else {"prediction_type": spec.prediction_type}
    if "steps_offset" in own.config:
        changes["steps_offset"] = 1
    if spec.scheduler == "folder":
        if type(own).__name__ == "DPMSolverSDEScheduler":
            raise InputError(f"{spec.id}: DPMSolverSDEScheduler draws noise without a generator, so an image has no seed")
        return type(own).from_config(own.config, **changes)
    kind = NAMED[spec.scheduler]
    if kind is DDIMScheduler:  # its default is to clamp, and a config of another class need not say no
        changes |= {"clip_sample": False}
    return kind.from_config(own.config, timestep_spacing="trailing", **changes)


def jumping_scheduler(own: SchedulerMixin | None, timestep: int, alpha: float, prediction_type: PredictionType) -> DDIMScheduler:
    """A scheduler whose one step turns noise at `timestep` into x_0: DDIM that ends at alpha = 1 (Song et al. 2021, eq. 12).

    own: the schedule to keep, if its last timestep is the one; None makes a schedule that is only alpha at `timestep`.
    """
    if own is None:
        betas = [0.0] * timestep + [1.0 - alpha**2]
        schedule: dict[str, Any] = {"num_train_timesteps": len(betas), "trained_betas": betas}
    else:
        kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
        schedule = {key: own.config[key] for key in kept if key in own.config}
    return DDIMScheduler(
        **schedule,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=1,  # trailing timesteps do not use it; diffusers' pipeline warns about any other number
    )


def randomness(scheduler: SchedulerMixin, rngs: Sequence[torch.Generator]) -> dict[str, Any]:
    """What a scheduler's step takes to draw the noise of image i from generator i; nothing where it draws none."""
    return {"generator": list(rngs)} if "generator" in inspect.signature(scheduler.step).parameters else {}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What a library raises over a file is an IntegrityError that names the file."""
    try:
        yield
    except _UNLOADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise IntegrityError(f"{path}: cannot be loaded: {first}", "copy or download the whole model") from error
