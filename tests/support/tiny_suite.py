"""A whole family in a folder, random and tiny: models, extractors and a suite of 26 captions, declared in a user's catalog."""

from __future__ import annotations

from pathlib import Path

import yaml
from tiny_clip import write_tiny_clip, write_tiny_extractor
from tiny_models import write_tiny_pipeline

GENERATED, REFERENCE, BLOCK = 26, 40, 6  # five blocks, the last with two images and four rows of padding
METRICS = {
    **{name: {"extractor": "tiny-world"} for name in ("fid", "pr", "kid")},
    "clip": {"extractor": "tiny-clip"},
    "hps": {"extractor": "tiny-hps"},
    "attributes": {"extractor": "tiny-attributes"},
}


def write_tiny_suite(folder: Path, seed: int = 0) -> Path:
    """Write tiny models, extractors and catalog.yaml; returns the catalog.

    Models: local/student (one step), local/teacher (3 steps, guidance 2). Suite: tiny.
    """
    teacher = write_tiny_pipeline(folder / "model", seed=seed)
    write_tiny_extractor(folder / "extractor", seed=1)
    write_tiny_clip(folder / "clip", seed=2)
    write_tiny_clip(folder / "hps", seed=3)
    catalog = {
        "extractors": {
            "tiny-world": {"kind": "world_network", "location": str(folder / "extractor")},
            "tiny-attributes": {"kind": "world_attributes", "location": str(folder / "extractor")},
            "tiny-clip": {"kind": "open_clip", "location": str(folder / "clip")},
            "tiny-hps": {"kind": "open_clip", "location": str(folder / "hps"), "scale": 100.0},
        },
        "models": {
            "local/student": {"sampler": "one_step", "location": str(teacher), "steps": 1},
            "local/teacher": {"sampler": "multi_step", "location": str(teacher), "steps": 3, "guidance_scale": 2.0},
        },
        "suites": {
            "tiny": {
                "extends": "mini",
                "caption_offset": 700_000,
                "num_generated": GENERATED,
                "num_reference": REFERENCE,
                "block_size": BLOCK,
                "metrics": METRICS,
            }
        },
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(catalog, sort_keys=False))
    return path
