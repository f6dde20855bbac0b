"""A verification as `sbv2bench verify` writes one, of a shipped model on `mini`, without sampling anything."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from sbv2bench.data.chain import model_files
from sbv2bench.data.extractor_files import with_weights
from sbv2bench.data.prompts import load_prompts
from sbv2bench.registry import Registry
from sbv2bench.results.verifications import SIDE, Verification
from sbv2bench.specs import fingerprint

MODEL = "mini/sd-turbo"


@cache
def _content() -> str:
    registry = Registry.built_in()
    model, suite = registry.model(MODEL), registry.suite("mini")
    weights, prompts = model_files(model, registry.model), load_prompts(suite)
    metric = next(metric for metric in registry.metrics_of(suite) if metric.id == "clip")
    protocol = suite.metric_protocol(metric, with_weights(registry.extractor(metric.extractor or "")), prompts.sha256)
    digest = fingerprint(json.loads(json.dumps(protocol)))
    return json.dumps(
        {
            "model": MODEL,
            "settings": model.fingerprint(),
            "fingerprint": model.model_copy(update={"weights": weights}).fingerprint(),
            "weights": [file.model_dump() for file in weights],
            "suite": "mini@v1",
            "made": {
                "card": "NVIDIA H100", "device": "cuda", "dtype": "float16", "sbv2bench": "0.1.0",
                "libraries": {"torch": "2.14.0+cu130", "diffusers": "0.42.1", "peft": None}, "date_utc": "2026-12-01T10:00:00Z",
            },
            "pixels": [
                {
                    "caption": caption, "height": 32, "width": 32, "sha256": hashlib.sha256(caption.encode()).hexdigest(),
                    "reduced": "10" * (SIDE * SIDE * 3),
                }
                for caption in prompts.captions[:4]
            ],
            "scores": {
                "clip_score": {
                    "label": "CLIP-mini", "value": 0.87, "std_err": 0.002, "n_generated": 1000, "fingerprint": digest,
                }
            },
            "protocols": {digest: protocol},
        }
    )  # fmt: skip


def content(**changes: Any) -> dict[str, Any]:
    """The fields of a file, some of them changed by their dotted path with __ for the dot, its hash not yet in it."""
    found: dict[str, Any] = json.loads(_content())
    for path, value in changes.items():
        *above, last = path.split("__")
        place: Any = found
        for name in above:
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = value
    return found


def sample(**changes: Any) -> Verification:
    """A whole record with its hash."""
    return Verification.model_validate(content(**changes)).signed()
