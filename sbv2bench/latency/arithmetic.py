"""Arithmetic of a call, and how fast this device can do any: counted by torch, and measured on bare products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from sbv2bench.latency.timing import Clock
from sbv2bench.results.records import Ceiling
from sbv2bench.samplers.base import Stage, Stopwatch, wait_for

_TRIES, _SECONDS = 3, 0.1  # of a product in one probe
# Side of the square matrices; batch, channels and side of the 3x3 convolution: large enough to be fast, small enough to be done.
_SIZES = {"cpu": (1024, (1, 256, 64)), "cuda": (8192, (8, 512, 128)), "mps": (4096, (4, 256, 128))}


class FlopMeter(Stopwatch):
    """Counts the operations of each stage in place of its seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.flop: dict[str, int] = {}

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Adds the operations of its block."""
        with flop_counter() as counter:
            yield
        self.flop[name] = self.flop.get(name, 0) + int(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """torch's counter, a multiply and an add counted as two, which knows the CPU's fused attention too."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: _attention})


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def flop_by_stage(work: Callable[[Stopwatch], object]) -> dict[str, int]:
    """Operations of a call by stage; under "whole" where it marks none, and nothing where torch does none."""
    meter = FlopMeter()
    work(meter)
    found = {name: count for name, count in meter.flop.items() if count}
    if not found:
        with flop_counter() as counter:
            work(Stopwatch())
        found = {"whole": int(counter.get_total_flops())} if counter.get_total_flops() else {}
    return found


class CeilingProbe:
    """Bare matrix products and convolutions, timed now and again during a run; the fastest of each is kept."""

    def __init__(
        self,
        device: str,
        dtype: torch.dtype,
        clock: Clock = time.perf_counter,
        sizes: tuple[int, tuple[int, int, int]] | None = None,
    ) -> None:
        """sizes: side of the matrices, and (batch, channels, side) of the images; by default what suits the kind of device."""
        self._device, self._clock = torch.device(device), clock
        side, (batch, channels, pixels) = sizes or _SIZES.get(self._device.type, _SIZES["cpu"])
        a, b = torch.rand(side, side, device=self._device, dtype=dtype), torch.rand(side, side, device=self._device, dtype=dtype)
        kernel = torch.rand(channels, channels, 3, 3, device=self._device, dtype=dtype).to(memory_format=torch.channels_last)
        images = torch.rand(batch, channels, pixels, pixels, device=self._device, dtype=dtype).to(
            memory_format=torch.channels_last
        )
        self._work: dict[str, tuple[int, Callable[[], object]]] = {
            "matmul": (2 * side**3, lambda: a @ b),
            "conv": (2 * 9 * batch * channels**2 * pixels**2, lambda: conv2d(images, kernel, padding=1)),
        }
        self._fastest: dict[str, float] = {}

    def __call__(self) -> None:
        """One more look at both."""
        for name, (flop, product) in self._work.items():
            product()
            wait_for(self._device)
            began = self._clock()
            for _ in range(_TRIES):
                start = self._clock()
                product()
                wait_for(self._device)
                end = self._clock()
                self._fastest[name] = max(self._fastest.get(name, 0.0), flop / max(end - start, 1e-12))
                if end - began > _SECONDS:
                    break

    def ceiling(self) -> Ceiling:
        """The fastest so far; there must have been a look."""
        return Ceiling(**self._fastest)
