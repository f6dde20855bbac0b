"""Forward passes of a model's denoiser, counted while it samples: its calls, the rows of each, and the noise levels.

A denoiser is a network that is told a noise level. Counting is a hook on it, which is there while somebody counts.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sbv2bench.errors import IntegrityError
from sbv2bench.results.records import Passes
from sbv2bench.samplers.base import HasNetworks, Sampler

_LEVELS = ("timestep", "timesteps", "timestep_ratio", "t", "r")  # names by which networks of diffusers take a noise level


@dataclass
class _Count:
    calls: int = 0
    rows: int = 0
    asked: list[object] = field(default_factory=list)  # levels since the last step of a scheduler, as the network was told them
    stepped: list[tuple[int, object]] = field(default_factory=list)  # levels of steps for which a network was asked

    def levels(self) -> int:
        """A scheduler's own timesteps count: pipelines round them to the network's dtype, in which several are one."""
        found = {(scheduler, _number(level)) for scheduler, level in self.stepped}
        return len(found) + len({_number(level) for level in self.asked if level is not None})


class _Thread(threading.local):
    count: _Count | None = None


_thread = _Thread()


def scheduler_steps(scheduler: object, timestep: object) -> None:
    """A scheduler takes its step at a timestep: where this thread counts, what the networks were asked before was for it."""
    count = _thread.count
    if count is not None and count.asked and timestep is not None:
        count.stepped.append((id(scheduler), timestep))
        count.asked.clear()


class PassCounter:
    """Counts the first block that is sampled within it, by whichever thread; `found` is None until then.

    with PassCounter(sampler) as counter: with counter.block(size): sampler.generate(...). Compiled networks count nothing.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module]) -> None:
        self._denoisers = denoisers(networks)
        self._hooks: list[Any] = []
        self._lock = threading.Lock()
        self.found: Passes | None = None

    @classmethod
    def of(cls, sampler: Sampler) -> PassCounter:
        """A counter of a sampler's networks; of one that shows none nothing will be found."""
        return cls(sampler.networks() if isinstance(sampler, HasNetworks) else {})

    def __enter__(self) -> PassCounter:
        self._hooks = [one.register_forward_pre_hook(_counted, with_kwargs=True) for one in self._denoisers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def block(self, images: int) -> Iterator[None]:
        """Around the sampling of a block of so many images, padding included."""
        if self.found is not None or not self._denoisers:
            yield
            return
        count = _thread.count = _Count()
        try:
            yield
        finally:
            _thread.count = None
        with self._lock:
            if count.calls and self.found is None:
                self.found = Passes(calls=count.calls, rows=count.rows, levels=count.levels(), images=images)


def check_declared(sampler: Sampler, found: Passes | None) -> None:
    """Raises IntegrityError where a model was asked at another number of noise levels than its spec and its scheduler say.

    Of some schedulers (KDPM2, or PNDM with its Runge-Kutta steps) the levels are more than the steps by design, which the
    sampler knows as `noise_levels`; then the counted number is the model's NFE.
    """
    declared = sampler.spec.network_evaluations()
    if found is not None and found.levels not in (declared, getattr(sampler, "noise_levels", declared)):
        raise IntegrityError(
            f"{sampler.spec.id}: NFE {declared} is declared, and {found.levels} noise levels in {found.calls} calls were counted",
            f"steps: {found.levels} in its spec, if that is what is meant",
        )


def denoisers(networks: Mapping[str, torch.nn.Module]) -> list[torch.nn.Module]:
    """Those of a model's networks that are told a noise level."""
    return [one for one in networks.values() if _level_name(one) is not None]


def _level_name(network: torch.nn.Module) -> str | None:
    parameters = inspect.signature(network.forward).parameters
    return next((name for name in _LEVELS if name in parameters), None)


def _counted(network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    count = _thread.count
    if count is None:
        return
    given = inspect.signature(network.forward).bind_partial(*args, **kwargs).arguments
    latents = next(iter(given.values()), ())
    count.calls += 1
    count.rows += len(latents)  # a tensor's first dimension, or a list of tensors
    count.asked.append(given.get(_level_name(network) or ""))


def _number(level: object) -> float:
    """A noise level as a number; every row of a call has the same."""
    return float(level.flatten()[0]) if isinstance(level, Tensor) else float(level)  # type: ignore[arg-type]
