"""Beside a GPU images are made while the last ones are measured: networks that sleep tell how much of it, on any machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Lock

import numpy as np
import pytest
from numpy.typing import NDArray
from running import block_of, run

from sbv2bench.evaluation import evaluate as spine
from sbv2bench.evaluation import gather
from sbv2bench.evaluation import measure as measuring
from sbv2bench.evaluation.measure import Measurer
from sbv2bench.machine.processes import turn_on, workers_on
from sbv2bench.registry import Registry
from sbv2bench.samplers.base import PromptBlock, Sampler, Stopwatch, to_uint8

NAP = 0.1  # seconds that either network takes for a block


@pytest.fixture
def as_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and turns as CUDA has them."""
    monkeypatch.setattr(gather, "workers_on", lambda device: workers_on("cuda"))
    for room in (spine, measuring):
        monkeypatch.setattr(room, "turn_on", lambda device: turn_on("cuda"))


class Naps:
    """Both networks sleep before they work, and say when. running: which of them are at it now; together: how long both were."""

    def __init__(self) -> None:
        self.lock, self.running, self.most = Lock(), {"make": 0, "measure": 0}, {"make": 0, "measure": 0}
        self.began = self.ended = 0.0

    def nap(self, kind: str) -> None:
        """Sleeps, counted."""
        with self.lock:
            self.began = self.began or time.perf_counter()
            self.running[kind] += 1
            self.most[kind] = max(self.most[kind], self.running[kind])
        time.sleep(NAP)
        with self.lock:
            self.running[kind] -= 1
            self.ended = time.perf_counter()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    """Networks that sleep a block through: noise is their image, and an image's first pixels its features."""
    made = Naps()
    real = spine.load_sampler

    class Sleeper:
        def __init__(self, sampler: Sampler) -> None:
            self.spec, self.resolution, self.network_calls = sampler.spec, sampler.resolution, sampler.network_calls

        def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> NDArray[np.uint8]:
            made.nap("make")
            return to_uint8(block.noise((3, self.resolution, self.resolution)))

    def asked(images: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.number]:
        if captions:  # generated ones; a reference has none
            made.nap("measure")
        return images.reshape(len(images), -1)[:, :4].astype(np.float32)

    monkeypatch.setattr(spine, "load_sampler", lambda *arguments: Sleeper(real(*arguments)))
    monkeypatch.setattr(Measurer, "_asked", lambda self, name: asked)
    return made


def test_making_hides_measuring(registry: Registry, naps: Naps, as_beside_a_gpu: None) -> None:
    blocks = 13  # of 2 captions each
    run(registry, metrics="fid", batch_size=2)
    wall = naps.ended - naps.began
    assert naps.most == {"make": 1, "measure": 1}  # a device does one of either kind at a time
    hidden = (2 * blocks * NAP - wall) / ((blocks - 1) * NAP)  # of what could be: the first making and the last measuring cannot
    assert hidden >= 0.9, f"{hidden:.0%} of the time that could be hidden"


def test_the_bits_are_those_of_one_after_another(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, as_beside_a_gpu: None
) -> None:
    overlapped = block_of(run(registry, batch_size=2, use_cache=False))
    monkeypatch.setattr(gather, "workers_on", lambda device: 1)
    assert block_of(run(registry, batch_size=2, use_cache=False)) == overlapped
