"""Latency results with numbers of one's choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sbv2bench.latency.plan import PROTOCOLS
from sbv2bench.registry import Registry
from sbv2bench.results.records import BatchLatency, Ceiling, LatencyResult, ModelRecord, Timing


def timing_of(repeats: Sequence[float]) -> Timing:
    value = sum(repeats) / len(repeats)
    return Timing(value=value, ci95=(value - 0.5, value + 0.5), repeats=tuple(repeats), median=value, p5=value - 1, p95=value + 1)


def sample_latency(
    repeats: Sequence[float] = (10.0, 12.0),
    *,
    model: str = "mini/sd-turbo",
    protocol: str = "paper",
    batch_sizes: Sequence[int] = (1,),
    guidance: float | None = None,
    date: str = "2026-11-25T10:00:00Z",
    device_name: str = "Chip | 9",
    **changes: Any,
) -> LatencyResult:
    """A result whose every batch takes `repeats` ms an image, and that agrees with itself."""
    spec = Registry.built_in().models[model]
    if guidance is not None:
        spec = spec.model_copy(update={"guidance_scale": guidance})
    batches = []
    for size in batch_sizes:
        total = timing_of([size * ms for ms in repeats])
        stages = {name: timing_of([share * size * ms for ms in repeats]) for name, share in (("text", 0.25), ("denoise", 0.5))}
        batches.append(
            BatchLatency(
                batch_size=size, runs=100, total=total, stages=stages, gap_ms=0.25 * total.value,
                images_per_second=1000 * size / total.value, flop={"text": 10**9, "denoise": 3 * 10**9}, ceiling_share=0.123,
                run_bytes=7_000_000, compile_s=None,
            )
        )  # fmt: skip
    fields: dict[str, Any] = {
        "protocol": PROTOCOLS[protocol], "protocol_fingerprint": PROTOCOLS[protocol].fingerprint(),
        "model": ModelRecord(**spec.model_dump(), nfe=spec.network_evaluations()), "decoder": "AutoencoderKL",
        "denoiser_calls": 1, "parameters": {"unet": 100}, "weights_bytes": 13_000_000, "device": "cpu", "dtype": "float32",
        "threads": 2, "compiled": (), "load_s": 1.5, "first_run_s": 0.25, "ceiling": Ceiling(matmul=4e10, conv=5e10),
        "memory_method": "peak RSS", "prompts_sha256": "ab", "batches": tuple(batches),
        "provenance": {"date_utc": date, "git_commit": "0123456789abcdef", "git_dirty": False, "device_name": device_name},
    }  # fmt: skip
    return LatencyResult(**(fields | changes))
