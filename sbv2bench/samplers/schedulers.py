"""Schedulers of diffusers: the folder's own, the one that a spec asks for, and one that jumps to x_0."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    TCDScheduler,
)
from safetensors import SafetensorError

from sbv2bench.data.assets import read_json
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.specs import ModelSpec, PredictionType

NAMED = {
    "ddim": DDIMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
}
_SPACED_BY_TRAINING = (LCMScheduler, TCDScheduler)  # they choose timesteps among those of their distillation
CLAMPS = ("clip_sample", "thresholding")
_UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)


def load_scheduler(folder: Path) -> SchedulerMixin:
    """The scheduler of a latent model's folder, which does not clamp: latents are not pixels in [-1, 1].

    DDPM and DDIM clamp unless their config says no, so an absent key is made a no (a config written by Euler's scheduler lacks
    it). Raises InputError where the config says yes, or names no scheduler of diffusers.
    """
    path = folder / "scheduler_config.json"
    if not path.is_file():
        raise PrerequisiteError(f"{path}: not found", "copy or download the whole model")
    config = read_json(path)
    name = config.get("_class_name")
    found = getattr(diffusers, str(name), None)
    if not (inspect.isclass(found) and issubclass(found, SchedulerMixin)):
        raise InputError(f"{path}: _class_name is {name!r}, expected a scheduler of diffusers {diffusers.__version__}")
    kind: type[SchedulerMixin] = found
    if clamping := [key for key in _not_clamping(kind) if config.get(key)]:
        raise InputError(
            f"{path}: {clamping[0]} is true\nit would clamp latents to a range that only pixels have, expected false",
            f'write "{clamping[0]}": false in it',
        )
    with reading(path):
        return kind.from_config(config, **_not_clamping(kind))


def _not_clamping(kind: type[SchedulerMixin]) -> dict[str, bool]:
    """The settings by which a class of schedulers does not clamp."""
    return {key: False for key in CLAMPS if key in inspect.signature(kind).parameters}


def make_scheduler(spec: ModelSpec, own: SchedulerMixin) -> SchedulerMixin:
    """A new scheduler as a spec asks for it. own: the folder's.

    folder: as it is. The others: diffusers' class made from the folder's config, which does not clamp, with the spec's spacing
    of timesteps, or trailing ones, which start at the noisiest step whatever their number (Lin et al. 2023, section 3.3).
    Raises InputError for a scheduler whose images have no seed, or whose timesteps have no spacing to choose.
    """
    changes: dict[str, object] = {} if spec.prediction_type is None else {"prediction_type": spec.prediction_type}
    kind: type[SchedulerMixin] = type(own) if spec.scheduler == "folder" else NAMED[spec.scheduler]
    if kind.__name__ == "DPMSolverSDEScheduler":
        raise InputError(f"{spec.id}: DPMSolverSDEScheduler draws noise without a generator, so an image has no seed")
    if spec.scheduler != "folder":
        changes |= _not_clamping(kind)
    spacing = spec.timestep_spacing or (None if spec.scheduler == "folder" else "trailing")
    if spacing and "timestep_spacing" in inspect.signature(kind).parameters and kind not in _SPACED_BY_TRAINING:
        changes["timestep_spacing"] = spacing
    elif spec.timestep_spacing:
        raise InputError(f"{spec.id}: {kind.__name__} spaces its timesteps in its own way, expected no timestep_spacing")
    return kind.from_config(own.config, **changes)


def amended(own: SchedulerMixin) -> SchedulerMixin:
    """A scheduler as StableDiffusionPipeline, and no other class, amends those of old configs: their steps_offset is 1."""
    return own if own.config.get("steps_offset", 1) == 1 else type(own).from_config(own.config, steps_offset=1)


def jumping_scheduler(
    own: SchedulerMixin | None, timestep: int, alpha: float, prediction_type: PredictionType, *, scaled_input: bool = False
) -> SchedulerMixin:
    """A scheduler whose one step turns noise at `timestep` into x_0: DDIM that ends at alpha = 1 (Song et al. 2021, eq. 12).

    own: the schedule to keep, if its last timestep is the one; None makes a schedule that is only alpha at `timestep`.
    scaled_input: the network is given sigma z, as Euler's scheduler does, in place of z.
    """
    if own is None:
        betas = [0.0] * timestep + [1.0 - alpha**2]
        schedule: dict[str, object] = {"num_train_timesteps": len(betas), "trained_betas": betas}
    else:
        kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
        schedule = {key: own.config[key] for key in kept if key in own.config}
    # Trailing timesteps do not use steps_offset; diffusers' pipeline warns about any other number.
    schedule |= {"prediction_type": prediction_type, "timestep_spacing": "trailing", "steps_offset": 1}
    if scaled_input:
        return EulerDiscreteScheduler(**schedule)
    return DDIMScheduler(**schedule, set_alpha_to_one=True, clip_sample=False)


def randomness(scheduler: SchedulerMixin, rngs: Sequence[torch.Generator]) -> dict[str, object]:
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
