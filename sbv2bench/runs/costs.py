"""What a plan will cost where that can be known: forward passes, arithmetic, disk. Counts, not measurements of this machine.

FLOPs an image are counted from the architectures (a multiply and an add are two), batch 1: SD 2.1-base at 512 px, its text
encoder on 77 tokens, the autoencoder's decoder; Inception at 299 px; the image and the text tower of each OpenCLIP model.
A network that is not listed has no figure, and none is made up.
"""

from __future__ import annotations

from typing import Any

from sbv2bench.runs.checks import cache_bytes
from sbv2bench.runs.plan import EvalPlan

GFLOP_IMAGE = {"inception": 11.4, "clip-vit-g-14": 534.0, "hpsv2": 335.0}  # by how an extractor's id begins
GFLOP_TEXT = {"clip-vit-g-14": 47.0, "hpsv2": 47.0}
SD21_512 = {"text": 45.0, "denoise": 804.0, "decode": 2515.0}
_SD21 = frozenset({"full/sd21", "full/sd-turbo", "full/swiftbrush"})  # of that architecture, at 512 px


def forward_passes(plan: EvalPlan, cached_seeds: int, cached_reference: tuple[str, ...]) -> dict[str, int]:
    """Images through each network that are still to be computed: the model's stages, and each extractor by its id."""
    images = len(plan.prompts) * (len(plan.seeds) - cached_seeds)
    generated = plan.model.has_network()
    passes = {"text": images, "denoise": images * plan.denoiser_calls_an_image(), "decode": images} if generated else {}
    for row in plan.rows:
        reference = plan.suite.num_reference if row in plan.reference_rows and row not in cached_reference else 0
        passes[plan.extractors[row].id] = images + reference
    return passes


def teraflop(plan: EvalPlan, passes: dict[str, int]) -> dict[str, float]:
    """TFLOP of each stage whose network's cost is known; texts are embedded once a run."""
    texts = len(plan.prompts)
    found = {}
    for name, count in passes.items():
        if name in SD21_512:
            if plan.model.id in _SD21 and plan.model.resolution == 512:
                found[name] = count * SD21_512[name] / 1000
            continue
        image = next((cost for start, cost in GFLOP_IMAGE.items() if name.startswith(start)), None)
        text = next((cost for start, cost in GFLOP_TEXT.items() if name.startswith(start)), 0.0)
        if image is not None:
            found[name] = (count * image + (texts * text if count else 0)) / 1000
    return found


def describe(plan: EvalPlan) -> dict[str, Any]:
    """The cost part of `--dry-run`, JSON-ready."""
    cached_seeds = sum(map(plan.is_cached, plan.seeds))
    cached_reference = tuple(row for row in plan.reference_rows if plan.reference_is_cached(row))
    passes = forward_passes(plan, cached_seeds, cached_reference)
    weights = {plan.model.id: plan.model.licence or "not stated"}
    return {
        "reference_in_cache": list(cached_reference),
        "forward_passes": passes,
        "tflop": teraflop(plan, passes),
        "disk_bytes": cache_bytes(len(plan.prompts) * len(plan.seeds)) if plan.options.use_cache else 0,
        "needs": [f"{need.location} ({need.what}), {need.licence or 'licence not stated'}" for need in plan.needs],
        "licences": weights,
    }
