"""What `latency` will time and by which protocol; everything cheap that can go wrong does so here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.machine.checks import available_device, check_packages, check_results_folder, chosen_dtype
from sbv2bench.machine.choices import DTYPES, MAX_BATCH, check_choice, check_device
from sbv2bench.machine.memory import chosen_placement
from sbv2bench.machine.processes import cores
from sbv2bench.registry import Registry, only_published
from sbv2bench.results.records import LatencyProtocol
from sbv2bench.samplers.placement import OFFLOADS, Offload, Placement
from sbv2bench.specs import ModelSpec

# SwiftBrush v2, section 7.5: batch 1, float16, one step as it stands. Where its warm-ups lie it does not say; here they are at
# the start of each repeat, since other models have run since the last one.
PAPER = LatencyProtocol(id="paper", warm_up=5, runs=50, repeats=10, statistic="mean")
FULL = LatencyProtocol(id="full", warm_up=2, runs=50, repeats=10, seconds=5.0, statistic="median")
PROTOCOLS: dict[str, LatencyProtocol] = {protocol.id: protocol for protocol in (PAPER, FULL)}
_BUSY = 0.5  # of the cores: a load at which times are no longer the model's own


@dataclass(frozen=True)
class LatencyOptions:
    """Options of `latency`. Make it by `LatencyOptions.validated`.

    compiled: text encoders, denoiser and decoder go through torch.compile. graphs: and are replayed as CUDA graphs.
    """

    protocol: LatencyProtocol = FULL
    batch_sizes: tuple[int, ...] = (1,)
    compiled: bool = False
    graphs: bool = False
    device: str = "auto"
    dtype: str = "auto"
    results: Path = Path("results")
    offload: Offload = "none"

    @classmethod
    def validated(cls, *, protocol: str = "full", batch_sizes: Sequence[int] = (), **typed: Any) -> LatencyOptions:
        """Options as typed to options as used. typed: the other fields. Raises InputError naming the option."""
        check_choice("--protocol", protocol, tuple(PROTOCOLS))
        for size in batch_sizes:
            if not 1 <= size <= MAX_BATCH:
                raise InputError(f"--batch-size: found {size}, expected a whole number from 1 to {MAX_BATCH}", "--batch-size 1")
        sizes = tuple(dict.fromkeys(batch_sizes)) or (1,)
        check_choice("--offload", typed.get("offload", "none"), OFFLOADS)
        options = cls(PROTOCOLS[protocol], sizes, **typed)
        if protocol == "paper" and (sizes != (1,) or options.compiled or options.offload != "none"):
            others = f"--batch-size {sizes[-1]}" if sizes != (1,) else f"--offload {options.offload}"
            what = "--compile" if options.compiled else others
            raise InputError(f"{what}: protocol paper is batch 1, not compiled, and all on the device", "--protocol full")
        check_device(options.device)
        if options.graphs and not options.compiled:
            raise InputError("--cuda-graphs: replays what was compiled, and nothing is", "--compile --cuda-graphs")
        check_choice("--dtype", options.dtype, DTYPES)
        return replace(options, results=Path(options.results).expanduser())


@dataclass(frozen=True)
class LatencyPlan:
    """Rows to time, each a model as it will be sampled, with its weights' hashes; on which device and in which dtype.

    placements: of each row, where its parts lie. notes: what a reader of the numbers must know, in people's words.
    """

    rows: tuple[ModelSpec, ...]
    options: LatencyOptions
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()


def plan_latency(models: Sequence[str], options: LatencyOptions, registry: Registry) -> LatencyPlan:
    """Resolve names and files; no network is loaded. By protocol `full` a model has a second row with its tiny decoder.

    Raises InputError (names, options, folders, nothing to time), PrerequisiteError (weights, packages, device, only published),
    IntegrityError (hashes).
    """
    check_results_folder(options.results)
    check_packages()
    specs = [_timeable(registry.model(name)) for name in models]
    from sbv2bench.samplers.defaults import hashed  # imports torch, which a wrong name must not wait for

    device = available_device(options.device)
    if options.graphs and not device.startswith("cuda"):
        raise InputError(f"--cuda-graphs: found device {device}, expected a CUDA device", "leave --cuda-graphs out")
    dtype = _one_dtype(specs, options, device)
    rows: dict[str, ModelSpec] = {}
    notes = []
    for spec in specs:
        own = hashed(spec, dtype, registry.model)
        rows.setdefault(own.fingerprint(), own)
        tiny = with_tiny_decoder(spec, registry) if options.protocol.id == "full" else None
        if tiny is not None:
            try:
                found = hashed(tiny, dtype, registry.model)
            except PrerequisiteError as error:  # nobody asked for it by name
                notes.append(f"{spec.id} with the tiny decoder {tiny.vae} is left out: {' '.join(error.message.split())}")
            else:
                rows.setdefault(found.fingerprint(), found)
    if options.protocol.id == "paper" and options.dtype not in ("auto", dtype):
        where = "a GPU" if dtype == "float16" else f"device {device}"
        raise InputError(f"--dtype {options.dtype}: protocol paper is {dtype} on {where}", "--protocol full")
    most = max(options.batch_sizes)
    placements = tuple(chosen_placement(spec, registry, (device, dtype), options.offload, most) for spec in rows.values())
    return LatencyPlan(tuple(rows.values()), options, device, dtype, (*notes, *_caveats(options, device, dtype)), placements)


def _timeable(spec: ModelSpec) -> ModelSpec:
    if spec.images == "none":
        raise only_published(spec)
    if not spec.has_network():
        raise InputError(
            f"model {spec.id}: no network generates its images (sampler {spec.sampler}), so there is nothing to time",
            "sbv2bench list models",
        )
    return spec


def _one_dtype(specs: Sequence[ModelSpec], options: LatencyOptions, device: str) -> str:
    """The dtype of all rows. Raises InputError where `auto` means several."""
    if options.protocol.id != "full":
        return chosen_dtype("auto", device)
    found = {chosen_dtype(options.dtype, device, spec): spec.id for spec in specs}
    if len(found) > 1:
        kinds = ", ".join(f"{dtype} of {name}" for dtype, name in found.items())
        raise InputError(f"--dtype auto: found {kinds}, expected one for all that is timed together", f"--dtype {min(found)}")
    return next(iter(found), chosen_dtype(options.dtype, device))


def with_tiny_decoder(spec: ModelSpec, registry: Registry) -> ModelSpec | None:
    """A model decoded by the tiny autoencoder of its family, None where the catalog names none or it has that one already.

    It is the one that an entry of its family names as `vae`: for the same latents (vae_scaling), or, in the family of
    anybody's models, at the same location.
    """
    entries = [entry for entry in registry.models.values() if entry.vae and entry.family == spec.family]
    alike = "location" if spec.family == "local" else "vae_scaling"
    other = next((entry for entry in entries if getattr(entry, alike) == getattr(spec, alike)), None)
    if spec.vae or other is None:
        return None
    tiny = spec.model_copy(update={"vae": other.vae})
    return next((entry for entry in entries if _samples_as(entry, tiny)), tiny)


def _samples_as(one: ModelSpec, other: ModelSpec) -> bool:
    return one.protocol() == other.protocol() and (one.location, one.base) == (other.location, other.base)


def _caveats(options: LatencyOptions, device: str, dtype: str) -> list[str]:
    found = []
    if options.protocol.id == "paper" and device == "cpu":
        found.append(f"protocol paper is float16 on a GPU; this is {dtype} on the CPU, not comparable with the paper's seconds")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > _BUSY * cores():
        found.append(f"this machine is busy (load {load:.1f} on {cores()} cores): times are longer than the models' own")
    return found
