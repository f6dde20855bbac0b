"""Results as an evaluation writes them, with numbers of one's choice; and weights that can be hashed but not used."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

from reference_trainer.ladder import RUNGS
from sbv2bench.registry import Registry
from sbv2bench.results.records import Conditions, EvalResult, MetricValue, ModelRecord, SuiteRecord
from sbv2bench.specs import ModelSpec, fingerprint

NETWORKS = tuple(rung.name for rung in RUNGS if rung.shipped)


def metric(value: float, label: str, direction: str = "lower", **more: Any) -> MetricValue:
    """A metric value of 5,000 generated images."""
    return MetricValue(value=value, label=label, direction=direction, n_generated=5000, **more)  # type: ignore[arg-type]


@cache
def _sd21() -> ModelSpec:
    return Registry.load().model("sd21")


def sample_result(
    fid: float | None = 12.345678901234567,
    *,
    suite: str = "mini-5k",
    version: int = 1,
    model: str = "mini/sd21",
    guidance: float = 2.0,
    date: str = "2026-11-22T10:00:00Z",
    status: str = "complete",
    split: str = "reporting",
) -> EvalResult:
    """A result whose metrics' fingerprints are those of their protocols. split: of the captions, told by their hash too."""
    spec = _sd21().model_copy(update={"guidance_scale": guidance, "id": model, "family": model.partition("/")[0]})
    metrics = {"clip_score": metric(0.875, "CLIP-mini", "higher", std_err=0.00123, uncertainty="standard error over prompts")}
    if fid is not None:
        metrics["fid"] = metric(fid, "FID-mini", n_reference=5000, extractor="world-128", ci95=(fid - 0.5, fid + 0.5))
    made = EvalResult(
        status=status,  # type: ignore[arg-type]
        model=ModelRecord(**spec.model_dump(), nfe=25),
        suite=SuiteRecord(
            id=suite, version=version, prompts_sha256="ab", reference={"fingerprint": "cd"},
            num_generated=5000, num_reference=5000, seeds=(0, 1, 2), block_sizes=(50,),
        ),
        conditions=Conditions(dtype=None, device="cpu", libraries={}),
        metrics=metrics,
        seconds={"generate": 1.5, "total": 2.0},
        provenance={"date_utc": date, "git_commit": "0123456789abcdef", "git_dirty": False, "device": "cpu",
                    "device_name": "Chip | 9", "cores": 2, "cache": {"generated": "miss", "reference": "hit", "notes": []},
                    "suite": {"id": suite, "version": version, "prompts": {"split": split}}},
    )  # fmt: skip
    return with_protocols(made)


def with_protocols(result: EvalResult, **changes: Any) -> EvalResult:
    """The result with every metric's protocol, of which some fields may be changed, and its fingerprint."""
    common = {"prompts_sha256": result.suite.prompts_sha256, "num_generated": result.suite.num_generated, **changes}
    protocols = {key: {"metric": {"id": key}, **common} for key in result.metrics}
    return with_these(result, protocols)


def with_these(result: EvalResult, protocols: dict[str, Any]) -> EvalResult:
    """The result with these protocols of its metrics, by key."""
    marked = {key: one.model_copy(update={"fingerprint": fingerprint(protocols[key])}) for key, one in result.metrics.items()}
    kept = {fingerprint(protocols[key]): protocols[key] for key in result.metrics}
    return result.model_copy(update={"metrics": marked, "provenance": {**result.provenance, "protocols": kept}})


def write_safetensors(path: Path, payload: bytes = b"\0" * 8) -> Path:
    """A whole safetensors file of one float32 tensor."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(payload) // 4], "data_offsets": [0, len(payload)]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)
    return path


def write_package_weights(folder: Path) -> Path:
    """A mini/weights folder with its manifest, in which every network is one tensor."""
    files = {}
    for name in NETWORKS:
        file = write_safetensors(folder / name / "model.safetensors", name.encode().ljust(12, b"."))
        files[f"{name}/model.safetensors"] = {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        (folder / name / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder
