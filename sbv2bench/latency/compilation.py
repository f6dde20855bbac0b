"""torch.compile of what a sampler runs: text encoders, denoiser and decoder, each where its own pipeline calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError

_RECOMPILATIONS = 1024  # torch gives up in silence after few; here every model and batch size has code of its own
_FIX = "run without --compile; on a CPU torch.compile needs a C++ compiler"
T = TypeVar("T")


def compilable(networks: Mapping[str, nn.Module], whose: str) -> dict[str, nn.Module]:
    """What of a sampler's networks is compiled, by its part: text encoders and denoiser whole, of an autoencoder the decoder.

    networks: as `HasNetworks.networks` gives them. An autoencoder's `decode` calls its decoder as a module, and itself is
    none. Raises InputError where there is no denoiser. whose: for the error.
    """
    found = {name: network for name, network in networks.items() if name.startswith("text_encoder")}
    denoisers = {name: network for name, network in networks.items() if name.startswith(("unet", "transformer", "prior"))}
    if not denoisers:
        raise InputError(f"--compile: {whose} shows no network that could be compiled")
    found |= {name.replace("unet", "denoiser").replace("transformer", "denoiser"): part for name, part in denoisers.items()}
    decoder = getattr(networks.get("vae"), "decoder", None)
    return found | ({"decoder": decoder} if isinstance(decoder, nn.Module) else {})


def compile_parts(parts: Mapping[str, nn.Module], *, graphs: bool) -> None:
    """Each part's calls go through torch.compile, one graph a batch size. graphs: replayed as CUDA graphs."""
    for part in parts.values():
        part.compile(dynamic=False, mode="reduce-overhead" if graphs else None)


@contextmanager
def eager(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Parts as they were before they were compiled: inside compiled code nobody counts."""
    compiled = {name: part._compiled_call_impl for name, part in parts.items()}
    for part in parts.values():
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for name, part in parts.items():
            part._compiled_call_impl = compiled[name]


def first_compiled(call: Callable[[], T], whose: str) -> T:
    """The first compiled call. Raises PrerequisiteError where it cannot be compiled here, or nothing was."""
    what = f"--compile: torch.compile of {whose}"
    try:
        found = call()
    except (SBV2BenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a compiler stumbles over
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise PrerequisiteError(f"{what} failed here: {type(error).__name__}: {reason[:160]}", _FIX) from error
    if not _graphs():  # of any call of this run: a model of the same architecture may have done the work
        raise PrerequisiteError(f"{what} compiled nothing", _FIX)
    return found


@contextmanager
def compiled_once(compiled: bool) -> Iterator[None]:
    """What is timed inside was compiled before. Raises IntegrityError where torch.compile was at work within."""
    before = _graphs() if compiled else 0
    yield
    more = _graphs() - before if compiled else 0
    if more:
        raise IntegrityError(
            f"--compile: torch.compile made {more} graphs more while the clock ran, so the times are not those of compiled code",
            "run without --compile; a network whose shapes change from call to call cannot be timed compiled",
        )


@contextmanager
def compiling(compiled: bool) -> Iterator[None]:
    """torch.compile with room for every model and batch size of a run."""
    if not compiled:
        yield
        return
    import torch._dynamo as dynamo

    name = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    with dynamo.config.patch({name: _RECOMPILATIONS, f"accumulated_{name}": _RECOMPILATIONS}):
        yield


def next_call(graphs: bool) -> None:
    """Before each call of a chain: CUDA graphs may write over what the last call's gave."""
    if graphs:
        torch.compiler.cudagraph_mark_step_begin()


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
