"""The command `latency`: models loaded once, looked at by themselves, then timed in turn, repeat by repeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from sbv2bench import provenance
from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.errors import PrerequisiteError
from sbv2bench.latency.arithmetic import CeilingProbe, flop_by_stage
from sbv2bench.latency.compilation import compilable, compile_parts, compiled_once, compiling, eager, first_compiled, next_call
from sbv2bench.latency.memory import memory_of, weights_bytes
from sbv2bench.latency.plan import LatencyPlan
from sbv2bench.latency.timing import Clock, Repeats, Sample, gap_seconds, interleaved, stage_timings, timed, timing
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.waiting import waiting
from sbv2bench.mini import world
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.records import BatchLatency, Ceiling, LatencyResult, ModelRecord, Passes
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import HasNetworks, PromptBlock, Sampler, Stopwatch, image_seed, wait_for
from sbv2bench.samplers.calls import PassCounter, check_declared
from sbv2bench.samplers.placement import USUAL, Placement
from sbv2bench.specs import ModelSpec

# What is drawn does not matter to the time, and every text is padded to one length: captions of the world do for any model.
CAPTIONS = tuple(world.captions(world.scenes("reporting", range(50))))


@dataclass
class Row:
    """A model in memory, with what was seen while it came there."""

    spec: ModelSpec
    sampler: Sampler
    load_s: float
    placement: Placement = USUAL
    first_run_s: float = 0.0
    memory_method: str = ""
    networks: dict[str, torch.nn.Module] = field(default_factory=dict)
    compiled: dict[str, torch.nn.Module] = field(default_factory=dict)  # parts that go through torch.compile
    passes: Passes | None = None  # of one call, not compiled

    @property
    def name(self) -> str:
        """Its id, with its decoder where that is not its own."""
        return self.spec.id + (f" + {self.spec.vae}" if self.spec.vae else "")


@dataclass
class Contender:
    """A row at a batch size, to be timed."""

    row: Row
    batch_size: int
    flop: dict[str, int] = field(default_factory=dict)
    run_bytes: int | None = None
    compile_s: float | None = None
    graphs: bool = False

    def work(self, number: int = 0) -> Callable[[Stopwatch], object]:
        """The numberth call: other captions and other noise than the one before."""
        block = prompt_block(self.batch_size, number)

        def call(stopwatch: Stopwatch) -> object:
            next_call(graphs=self.graphs)
            return self.row.sampler.generate(block, stopwatch)

        return call


def prompt_block(batch_size: int, number: int) -> PromptBlock:
    """The numberth batch of captions, beginning anew after the last one."""
    rows = range(number * batch_size, (number + 1) * batch_size)
    captions = tuple(CAPTIONS[row % len(CAPTIONS)] for row in rows)
    return PromptBlock(number, rows.start, batch_size, captions, tuple(image_seed(0, row) for row in rows))


def measure_and_store(
    plan: LatencyPlan, registry: Registry, progress: Progress | None = None
) -> list[tuple[LatencyResult, Path]]:
    """Carry out a plan and write a result file for each row."""
    return [(result, store.write(result, plan.options.results)) for result in measure_latency(plan, registry, progress)]


def measure_latency(
    plan: LatencyPlan, registry: Registry, progress: Progress | None = None, clock: Clock = time.perf_counter
) -> list[LatencyResult]:
    """A result for each row of the plan, in its order. Nothing is written.

    Raises PrerequisiteError (out of memory, cannot compile), IntegrityError (stages do not add up, pixels that are not numbers),
    and what loading raises.
    """
    tell: Progress = progress or (lambda stage, done, total: None)
    began, compiled = _load_average(), plan.options.compiled
    with _on(plan.device), _enough_memory(plan), compiling(compiled):
        rows = []
        for number, spec in enumerate(plan.rows, 1):
            placement = plan.placements[number - 1] if plan.placements else USUAL
            rows.append(_loaded(spec, placement, plan, registry, clock))
            tell("load", number, len(plan.rows))
        contenders = [Contender(row, size, graphs=plan.options.graphs) for row in rows for size in plan.options.batch_sizes]
        for number, contender in enumerate(contenders, 1):
            _look_at(contender, plan, clock)
            tell("prepare", number, len(contenders))
        probe = CeilingProbe(plan.device, getattr(torch, plan.dtype), clock)
        calls = [_timed_call(contender, plan.device, clock) for contender in contenders]
        waited = waiting()
        with compiled_once(compiled):
            found = interleaved(
                calls, plan.options.protocol, clock, probe, lambda done, total: tell("time (repeats)", done, total)
            )
        share = waited()
    ceiling = probe.ceiling()
    made = provenance.environment(plan.device) | _torch_settings() | {"load_average": [began, _load_average()], "waited": share}
    results = []
    for row in rows:
        mine = [(contender, repeats) for contender, repeats in zip(contenders, found, strict=True) if contender.row is row]
        others = tuple(other.name for other in rows if other is not row)
        results.append(_result(row, mine, plan, ceiling, made).model_copy(update={"interleaved_with": others}))
    return results


def _loaded(spec: ModelSpec, placement: Placement, plan: LatencyPlan, registry: Registry, clock: Clock) -> Row:
    """A model on the device and its first image, each by the clock."""
    with suppress(ImportError):  # loading will say so; what is timed is the model, not the libraries
        import_module(registry.sampler(spec.sampler).target.partition(":")[0])
    began = clock()
    sampler = load_sampler(spec, plan.device, getattr(torch, plan.dtype), registry, placement)
    wait_for(torch.device(plan.device))
    row = Row(spec, sampler, clock() - began, placement)
    row.networks = sampler.networks() if isinstance(sampler, HasNetworks) else {}
    row.first_run_s = timed(Contender(row, plan.options.batch_sizes[0]).work(), plan.device, clock).total
    if plan.options.compiled:
        row.compiled = compilable(row.networks, f"{spec.id}: its sampler ({spec.sampler})")
        compile_parts(row.compiled, graphs=plan.options.graphs)
    return row


def _look_at(contender: Contender, plan: LatencyPlan, clock: Clock) -> None:
    """What is not a matter of repeats: operations, compilation, memory."""
    weights = [weight for network in contender.row.networks.values() for weight in network.parameters()]
    learning = [weight.requires_grad for weight in weights]
    for weight in weights:  # torch's counter looks for the graph of a weight that could learn, and there is none
        weight.requires_grad_(False)
    with eager(contender.row.compiled), PassCounter(contender.row.networks) as counter, counter.block(contender.batch_size):
        contender.flop = flop_by_stage(contender.work())
    for weight, could in zip(weights, learning, strict=True):
        weight.requires_grad_(could)
    check_declared(contender.row.sampler, counter.found)
    contender.row.passes = counter.found
    if plan.options.compiled:
        whose = f"{', '.join(contender.row.compiled)} of {contender.row.spec.id}"
        contender.compile_s = first_compiled(lambda: timed(contender.work(), plan.device, clock).total, whose)
    gap_seconds(contender.row.name, [[timed(contender.work(), plan.device, clock)]])  # what is absurd is so from the first call
    contender.run_bytes, contender.row.memory_method = memory_of(lambda: contender.work()(Stopwatch()), plan.device)


def _timed_call(contender: Contender, device: str, clock: Clock) -> Callable[[int], Sample]:
    return lambda number: timed(contender.work(number), device, clock)


def _result(
    row: Row,
    mine: list[tuple[Contender, Repeats]],
    plan: LatencyPlan,
    ceiling: Ceiling,
    made: dict[str, object],
) -> LatencyResult:
    protocol = plan.options.protocol
    vae = row.networks.get("vae")
    return LatencyResult(
        protocol=protocol,
        protocol_fingerprint=protocol.fingerprint(),
        model=ModelRecord(**row.spec.model_dump(), nfe=row.passes.levels if row.passes else row.spec.network_evaluations()),
        decoder="" if vae is None else type(vae).__name__,
        denoiser_calls=round(row.passes.rows_an_image) if row.passes else row.sampler.network_calls,
        passes_counted=row.passes is not None,
        parameters={name: sum(p.numel() for p in network.parameters()) for name, network in row.networks.items()},
        weights_bytes=weights_bytes(row.networks) if row.networks else None,
        device=plan.device,
        dtype=plan.dtype,
        threads=torch.get_num_threads(),
        offload=row.placement.offload,
        compiled=tuple(row.compiled),
        cuda_graphs=plan.options.graphs,
        load_s=row.load_s,
        first_run_s=row.first_run_s,
        ceiling=ceiling,
        memory_method=row.memory_method,
        prompts_sha256=captions_sha256(CAPTIONS),
        batches=tuple(_batch(contender, repeats, plan, ceiling) for contender, repeats in mine),
        provenance=made,
    )


def _batch(contender: Contender, repeats: Repeats, plan: LatencyPlan, ceiling: Ceiling) -> BatchLatency:
    statistic = plan.options.protocol.statistic
    total = timing([[run.total for run in runs] for runs in repeats], statistic)
    seconds = total.value / 1000
    return BatchLatency(
        batch_size=contender.batch_size,
        runs=sum(map(len, repeats)),
        total=total,
        stages=stage_timings(repeats, statistic),
        gap_ms=1000 * gap_seconds(contender.row.name, repeats),
        images_per_second=contender.batch_size / seconds,
        flop=contender.flop,
        ceiling_share=sum(contender.flop.values()) / seconds / ceiling.best,
        run_bytes=contender.run_bytes,
        compile_s=contender.compile_s,
    )


@contextmanager
def _enough_memory(plan: LatencyPlan) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        largest = max(plan.options.batch_sizes)
        fix = "fewer models at once" if largest == 1 else f"--batch-size {largest // 2}, or fewer models at once"
        raise PrerequisiteError(
            f"{plan.device}: out of memory with {len(plan.rows)} rows loaded, batch sizes up to {largest}", fix
        ) from error


def _on(device: str) -> AbstractContextManager[object]:
    """Events are marked in the current device's stream, so it must be the one that is used."""
    return torch.cuda.device(device) if torch.device(device).type == "cuda" else nullcontext()


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _torch_settings() -> dict[str, object]:
    """Switches of torch that change its speed, as they were."""
    cudnn = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_tf32": cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
