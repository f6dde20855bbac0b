"""The noise of a pipeline's images: each image's own, drawn in float32 on the CPU whatever dtype and device it is asked for in.

float16 and bfloat16 draw other numbers of a seed than float32, and some pipelines draw by no generator at all. So on a copy of
a pipeline that samples one block, what draws (preparing the latents, a scheduler's step) draws by `Float32Noise`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sbv2bench.errors import InputError
from sbv2bench.samplers.base import initial_noise
from sbv2bench.samplers.calls import scheduler_steps


class Float32Noise(TorchFunctionMode):
    """Within it torch.randn and torch.randn_like of this thread draw in float32 on the CPU, and cast.

    By the generator that they are given, or else row i by generator i. Raises InputError for rows of no image.
    """

    def __init__(self, rngs: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._rngs = rngs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls in place of its own functions."""
        kwargs = kwargs or {}
        if func is torch.randn:
            size = kwargs["size"] if not args else args if isinstance(args[0], int) else args[0]
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            return self._drawn(tuple(size), kwargs.get("generator")).to(kwargs.get("device") or "cpu", dtype)
        if func is torch.randn_like:
            like: Tensor = args[0]
            drawn = self._drawn(tuple(like.shape), None)
            return drawn.to(kwargs.get("device") or like.device, kwargs.get("dtype") or like.dtype)
        return func(*args, **kwargs)

    def _drawn(self, shape: tuple[int, ...], rng: torch.Generator | None) -> Tensor:
        if rng is not None:
            return torch.randn(shape, generator=rng, dtype=torch.float32)
        if not shape or shape[0] != len(self._rngs):
            raise InputError(f"noise of {list(shape)} is drawn for {len(self._rngs)} images, expected a row for each")
        return initial_noise(self._rngs, shape[1:])


def give_noise(pipeline: DiffusionPipeline, rngs: Sequence[torch.Generator]) -> None:
    """Let a copy of a pipeline, with schedulers of its own, draw the noise of image i by generator i, in float32.

    Every step of its schedulers is also told to whoever counts forward passes in this thread.
    """
    attributes = vars(pipeline)
    if hasattr(pipeline, "prepare_latents"):
        attributes["prepare_latents"] = _in_float32(pipeline.prepare_latents, rngs)
    for part in [*pipeline.components.values()]:
        if isinstance(part, SchedulerMixin):
            vars(part)["step"] = _seeded_step(part, rngs)
    for part in [*attributes.values()]:
        if isinstance(part, DiffusionPipeline):
            give_noise(part, rngs)


@contextmanager
def noise_of_call(pipeline: DiffusionPipeline, rngs: Sequence[torch.Generator]) -> Iterator[None]:
    """For a pipeline that draws its first noise within its call. The others only draw where `give_noise` sees it.

    Watching all of torch's functions takes time, which networks would be blamed for.
    """
    if hasattr(pipeline, "prepare_latents"):
        yield
        return
    with Float32Noise(rngs):
        yield


def _in_float32(draw: Callable[..., Any], rngs: Sequence[torch.Generator]) -> Callable[..., Any]:
    @functools.wraps(draw)
    def drawing(*args: Any, **kwargs: Any) -> Any:
        with Float32Noise(rngs):
            return draw(*args, **kwargs)

    return drawing


def _seeded_step(scheduler: SchedulerMixin, rngs: Sequence[torch.Generator]) -> Callable[..., Any]:
    """A scheduler's step; pipelines of flow models pass no generator to it."""
    own: Callable[..., Any] = scheduler.step
    signature = inspect.signature(own)

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs).arguments
        scheduler_steps(scheduler, given.get("timestep"))
        if "generator" in signature.parameters and "generator" not in given:
            kwargs["generator"] = list(rngs)
        with Float32Noise(rngs):
            return own(*args, **kwargs)

    return step
