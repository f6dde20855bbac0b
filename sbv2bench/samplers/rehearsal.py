"""A pipeline asked once for one image, up to its scheduler's first step: what it cannot take is known before the first image.

That costs one caption's text and the passes of one noise level.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from sbv2bench.errors import InputError, SBV2BenchError
from sbv2bench.samplers.calls import PassCounter
from sbv2bench.samplers.noise import give_noise, noise_of_call
from sbv2bench.samplers.pipeline_call import call_parameters, pictures
from sbv2bench.specs import ModelSpec


class _FirstStep(Exception):
    """Raised where the first level is done."""


@dataclass(frozen=True)
class Rehearsal:
    """What was seen. rows: of the denoiser at the first noise level, for one image; 0 where no denoiser was seen.

    size: (height, width) for which latents were prepared, where the pipeline says. guided: what it says of a second pass.
    """

    rows: int
    size: tuple[int, int] | None
    guided: bool | None

    @classmethod
    def of(
        cls, pipeline: DiffusionPipeline, rngs: Sequence[torch.Generator], arguments: dict[str, object], spec: ModelSpec
    ) -> Rehearsal:
        """Ask a copy of a pipeline. Raises InputError with its own words where it cannot be asked so."""
        kind = type(pipeline).__name__
        size: list[tuple[int, int]] = []
        if hasattr(pipeline, "prepare_latents"):
            vars(pipeline)["prepare_latents"] = _watched(pipeline.prepare_latents, size)
        for part in pipeline.components.values():
            if isinstance(part, SchedulerMixin):
                vars(part)["step"] = _stopping(part.step)
        give_noise(pipeline, rngs)
        networks = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
        try:
            with PassCounter(networks) as counter, counter.block(1), suppress(_FirstStep), noise_of_call(pipeline, rngs):
                pipeline(**arguments)
        except (SBV2BenchError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a library stumbles over
            said = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise InputError(f"{spec.id}: {kind} cannot be asked so: {said}{_other_side(pipeline, error)}") from error
        finally:
            pipeline.maybe_free_model_hooks()  # of parts that are offloaded, the one in use goes back
        found = counter.found
        guided = getattr(pipeline, "do_classifier_free_guidance", None)
        return cls(0 if found is None else found.rows, size[0] if size else None, guided if isinstance(guided, bool) else None)


def check_rehearsal(spec: ModelSpec, kind: str, heard: Rehearsal, *, guided: bool, embedded: bool) -> None:
    """Raises InputError where a guidance scale does nothing, or "no guidance" makes a second pass."""
    name, scale = spec.guidance_argument, f"{spec.guidance_scale:g}"
    if guided and heard.rows == 1:
        raise InputError(
            f"{spec.id}: {name} is {scale}, and {kind} asks its network for one row a noise level: it does without guidance",
            f"--guidance-scale {spec.no_guidance:g}",
        )
    if not guided and not embedded and heard.rows > 1 and heard.guided is not False:
        raise InputError(
            f"{spec.id}: {name} {scale} is to mean no guidance, and {kind} asks its network for {heard.rows} rows a level",
            "no_guidance: 0 in its spec, if that is the scale at which it makes one pass",
        )


def _other_side(pipeline: DiffusionPipeline, error: Exception) -> str:
    """What a pipeline may have stumbled over: its scheduler, where that was asked last, or that there is no picture."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(code.co_name == "retrieve_timesteps" or "scheduling_" in code.co_filename for code in frames):
        return f"; its scheduler is {type(pipeline.components.get('scheduler')).__name__}"
    taken = pictures(call_parameters(type(pipeline)))
    return f"; it takes {', '.join(taken)}, expected a pipeline that starts from text alone" if taken else ""


def _stopping(step: Callable[..., Any]) -> Callable[..., NoReturn]:
    @functools.wraps(step)
    def stop(*args: Any, **kwargs: Any) -> NoReturn:
        raise _FirstStep

    return stop


def _watched(prepare: Callable[..., Any], sizes: list[tuple[int, int]]) -> Callable[..., Any]:
    signature = inspect.signature(prepare)

    @functools.wraps(prepare)
    def watching(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs).arguments
        height, width = given.get("height"), given.get("width")
        if isinstance(height, int) and isinstance(width, int):
            sizes.append((height, width))
        return prepare(*args, **kwargs)

    return watching
