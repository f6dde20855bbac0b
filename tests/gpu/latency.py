"""Part 3: one step from caption to pixels at several batch sizes, beside diffusers' own pipeline, eager and compiled."""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import Any, Literal

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from gpu.figures import Figures
from gpu.setting import Setting

from sbv2bench.errors import PrerequisiteError
from sbv2bench.latency.measure import CAPTIONS, measure_latency
from sbv2bench.latency.plan import LatencyOptions, plan_latency
from sbv2bench.latency.timing import Sample, interleaved, timed, timing
from sbv2bench.results.records import LatencyProtocol
from sbv2bench.samplers.base import generators, image_seed

BATCH_SIZES = (1, 4, 32)
# The clock of `latency --protocol full`, for less time.
PROTOCOL = LatencyProtocol(id="full", warm_up=2, runs=20, repeats=3, seconds=0.6, statistic="median")
PEER_MODE = "reduce-overhead"  # of torch.compile: CUDA graphs, without the minutes that max-autotune takes

Way = Literal["eager", "compiled", "graphs"]


def measure(setting: Setting, figures: Figures) -> None:
    """What is eager first, which needs no compiler; then what is compiled, in the order in which it would be missed.

    <way>.batch_<N>.<whose>: milliseconds a call, and how many times the arithmetic at the ceiling's rate that is.
    """
    bench = _Bench(setting, figures)
    for size in BATCH_SIZES:
        bench.ours("eager", size, "one-step")
    figures.attempt("load.diffusers", partial(bench.load_peer, "eager"))
    for size in BATCH_SIZES:
        bench.theirs("eager", size)
    bench.ours("eager", 1, "one-step-taesd")
    bench.ours("eager", 1, "25-steps")
    for size in (1, 32, 4):
        bench.ours("compiled", size, "one-step")
    figures.attempt("load.diffusers_compiled", partial(bench.load_peer, "compiled"))
    for size in (1, 32, 4):
        bench.theirs("compiled", size)
    for size in (1, 32, 4):
        bench.ours("graphs", size, "one-step")
    bench.ours("compiled", 1, "one-step-taesd")
    best = max(bench.rates, key=lambda name: bench.rates[name], default="")
    figures.add("best", {"what": best, "images_per_second": bench.rates.get(best)})


class _Bench:
    """Times both sides on one device, and keeps images a second by what made them."""

    def __init__(self, setting: Setting, figures: Figures) -> None:
        self.setting, self.figures = setting, figures
        folder = setting.sd21_to_compile()
        self.registry, self.tiny = setting.registry(folder), setting.with_taesd(folder)
        self.device, self.dtype = setting.device, torch.float16 if setting.device == "cuda" else torch.float32
        self.protocol = PROTOCOL if setting.true else PROTOCOL.model_copy(update={"runs": 2, "repeats": 2})
        self.rates: dict[str, float] = {}
        self._pipeline: Any = None
        self._floor_ms: dict[int, float] = {}  # of a call at a batch size, by its arithmetic and the ceiling
        figures.add("protocol", self.protocol.model_dump() | {"dtype": str(self.dtype).split(".")[1], "peer_mode": PEER_MODE})

    def ours(self, way: Way, size: int, model: str) -> None:
        """One of the setting's models, by `latency`."""
        whose = {"one-step": "ours", "one-step-taesd": "ours_taesd", "25-steps": "ours_25_guided_steps"}[model]
        self.figures.attempt(f"{way}.batch_{size}.{whose}", partial(self._ours, way, size, model))

    def _ours(self, way: Way, size: int, model: str) -> dict[str, Any]:
        graphs = way == "graphs" and self.device == "cuda"  # a CPU has none: rehearsed without
        results = self.setting.folder / "results"
        options = LatencyOptions(
            self.protocol, (size,), compiled=way != "eager", graphs=graphs, device=self.device, results=results
        )
        registry = self.tiny if "taesd" in model else self.registry
        result = measure_latency(plan_latency([f"local/{model}"], options, registry), registry)[0]
        batch, ceiling = result.batches[0], result.ceiling
        floor_ms = 1000 * sum(batch.flop.values()) / ceiling.best
        if model == "one-step":
            self._floor_ms.setdefault(size, floor_ms)
            self.rates[f"{way}, batch {size}"] = batch.images_per_second
        _free()
        return {
            "milliseconds": batch.total.value,
            "interval": batch.total.ci95,
            "stages": {name: stage.value for name, stage in batch.stages.items()},
            "outside_of_stages": batch.gap_ms,
            "images_per_second": batch.images_per_second,
            "times_the_floor": batch.total.value / floor_ms,
            "floor_milliseconds": floor_ms,
            "tflop": sum(batch.flop.values()) / 1e12,
            "ceiling_tflops": ceiling.best / 1e12,
            "compiled": [*result.compiled, *(["as CUDA graphs"] if result.cuda_graphs else [])],
            "first_compiled_call_seconds": batch.compile_s,
            "loading_seconds": result.load_s,
            "call_bytes": batch.run_bytes,
        }

    def load_peer(self, way: Way) -> dict[str, float]:
        """diffusers' own pipeline of the same folder, with SD-Turbo's scheduler; compiled: UNet and decoder, channels last."""
        self._pipeline = None
        _free()
        pipeline = StableDiffusionPipeline.from_pretrained(
            self.setting.sd21_to_compile(), torch_dtype=self.dtype, safety_checker=None, local_files_only=True
        ).to(self.device)
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
        pipeline.set_progress_bar_config(disable=True)
        if way == "compiled":
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
            pipeline.unet.compile(mode=PEER_MODE, fullgraph=True, dynamic=False)
            pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode=PEER_MODE, fullgraph=True, dynamic=False)
        self._pipeline = pipeline
        return {"parameters": float(sum(p.numel() for part in (pipeline.unet, pipeline.vae) for p in part.parameters()))}

    def theirs(self, way: Way, size: int) -> None:
        """diffusers' pipeline, which must be loaded that way."""
        self.figures.attempt(f"{way}.batch_{size}.diffusers", partial(self._theirs, size))

    def _theirs(self, size: int) -> dict[str, Any]:
        if self._pipeline is None:
            raise PrerequisiteError("diffusers' pipeline was not loaded")
        first = self._call(size, 0).total
        repeats = interleaved([partial(self._call, size)], self.protocol, time.perf_counter)[0]
        found = timing([[run.total for run in runs] for runs in repeats], self.protocol.statistic)
        floor_ms = self._floor_ms.get(size)
        return {
            "milliseconds": found.value,
            "interval": found.ci95,
            "images_per_second": 1000 * size / found.value,
            "times_the_floor": None if floor_ms is None else found.value / floor_ms,
            "first_call_seconds": first,
        }

    def _call(self, size: int, number: int) -> Sample:
        rows = range(number * size, (number + 1) * size)
        captions = [CAPTIONS[row % len(CAPTIONS)] for row in rows]
        seeds = generators([image_seed(0, row) for row in rows])

        def work(_: object) -> None:
            self._pipeline(captions, num_inference_steps=1, guidance_scale=1.0, generator=seeds, output_type="np")

        return timed(work, self.device, time.perf_counter)


def _free() -> None:
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
