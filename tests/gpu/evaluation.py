"""Part 2: the path of coco2014-30k on a few captions, with random weights of its true networks, ViT-g and ViT-H among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gpu.figures import Figures
from gpu.setting import Setting
from gpu.training import timed
from numpy.typing import NDArray
from photographs import photograph, write_zip
from torch.nn import init

from sbv2bench.data.caption_files import captions_sha256, released_form
from sbv2bench.evaluation import costs
from sbv2bench.evaluation.evaluate import Run
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import EvalPlan, plan
from sbv2bench.features.base import is_paired, load_extractor
from sbv2bench.latency.memory import memory_of
from sbv2bench.machine.processes import cores, exact_arithmetic, joined_processes
from sbv2bench.mini import world
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ExtractorSpec

SUITE, METRICS = "coco-few", "fid,pr,pr-paper,kid,clip,hps"
EXTRACTORS = (
    *("inception-2015-clean299", "inception-2015-tf1", "inception-2015-tf1-bgr"),
    *("clip-vit-g-14-laion2b", "hpsv2-v2.0"),
)  # fmt: skip


def measure(setting: Setting, figures: Figures) -> None:
    """The evaluation, its plan beside it; then features of the same pictures on the device and on the CPU."""
    count = 256 if setting.true else 8
    registry = setting.registry(setting.sd21(), *EXTRACTORS, suites={SUITE: _suite(setting.folder, count)})
    options = EvalOptions.validated(metrics=METRICS, device=setting.device, use_cache=False, results=setting.folder / "results")
    planned = plan("local/one-step", SUITE, options, registry)
    figures.add("plan", _told(planned, registry))
    figures.attempt("run", partial(_run, planned, registry))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    for name in ("inception-2015-clean299", "clip-vit-g-14-laion2b", "hpsv2-v2.0"):
        short = name.partition("-v")[0].partition("-2015")[0]
        figures.attempt(f"features.{short}", partial(_features, name, registry, setting, pictures))


def _suite(folder: Path, count: int) -> dict[str, object]:
    """coco2014-30k with so many captions and photographs of ours, in the files that the real ones come in."""
    captions = world.captions(world.scenes("reporting", range(count)))
    (folder / "dataset.json").write_bytes(released_form(captions))
    files = {f"COCO_val2014_{number:012d}.jpg": photograph(number, 640, 480) for number in range(count)}
    write_zip(folder / "val2014.zip", files)
    return {
        "extends": "coco2014-30k",
        "num_generated": count,
        "num_reference": count,
        "prompts": {"location": str(folder / "dataset.json"), "captions_sha256": captions_sha256(captions)},
        "reference": {"location": str(folder / "val2014.zip")},
        "metrics": METRICS.split(","),
        "block_size": min(16, count // 2),
        "label_suffix": "-few",
    }


def _told(planned: EvalPlan, registry: Registry) -> dict[str, Any]:
    """What `--dry-run` says of the evaluation."""
    told = costs.describe(planned, registry)
    return {name: told[name] for name in ("tflop", "estimated_seconds", "memory_bytes", "disk_bytes")}


def _run(planned: EvalPlan, registry: Registry) -> dict[str, Any]:
    """Seconds by stage as the result has them, and memory of the whole beyond what was there before."""
    found: list[tuple[float, EvalResult]] = []
    whole = Run(planned, registry, joined_processes())
    size, method = memory_of(lambda: found.append(timed(torch.device(planned.device), whole.result)), planned.device)
    seconds, result = found[0]
    values = {name: metric.value for name, metric in result.metrics.items()}
    return {
        "images": len(planned.prompts),
        "dtype": planned.dtype,
        "block_sizes": list(result.suite.block_sizes),
        "seconds": {**dict(result.seconds), "with_loading": seconds},
        "images_per_second": len(planned.prompts) / seconds,
        "peak_bytes": size,
        "peak_is": method,
        "finite": all(math.isfinite(value) for value in values.values()),
        "metrics": values,
    }


def _features(name: str, registry: Registry, setting: Setting, pictures: NDArray[np.uint8]) -> dict[str, Any]:
    """Rows of the same pictures on the device and on the CPU: their largest difference, as a share of the largest value."""
    spec = registry.extractor(name)
    with exact_arithmetic():
        seconds, ours = _rows(spec, setting.device, pictures)
        torch.set_num_threads(cores() if setting.true else 1)
        seconds_on_cpu, theirs = _rows(spec, "cpu", pictures)
    far = {kind: float(np.abs(ours[kind] - theirs[kind]).max() / np.abs(theirs[kind]).max()) for kind in ours}
    return {"relative_difference": far, "seconds_on_device": seconds, "seconds_on_cpu": seconds_on_cpu}


@contextmanager
def _nothing_initialised() -> Iterator[None]:
    """Weights that a file replaces are not drawn first, which takes a processor ten seconds of ViT-g."""
    names = [name for name in vars(init) if name.endswith("_") and not name.startswith("_")]
    with patch.multiple(init, **{name: lambda tensor, *_, **__: tensor for name in names}):
        yield


def _rows(spec: ExtractorSpec, device: str, pictures: NDArray[np.uint8]) -> tuple[float, dict[str, NDArray[np.number]]]:
    """Seconds of the first call, and the rows: of pictures, and where it pairs them with captions of those."""
    with _nothing_initialised():
        extractor: Any = load_extractor(spec, device)
    ask = extractor.embed_images if is_paired(extractor, spec) else extractor
    seconds, rows = timed(torch.device(device), lambda: ask(pictures))
    text = {"text": extractor.embed_text(["a red circle", "two blue squares"])} if is_paired(extractor, spec) else {}
    return seconds, {"images": rows, **text}
