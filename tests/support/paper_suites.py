"""The suites of the paper in a folder, tiny: 40 captions in a dataset.json, 50 photographs in a zip, 4 x 4 prompts, stand-ins.

They are declared as extensions of the real ones, so that every field not named here is the real suite's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from photographs import photograph, write_zip
from PIL import Image
from standin_networks import write_standin

from sbv2bench.data.caption_files import STYLES, captions_sha256, released_form

CAPTIONS = [f"caption {i} " for i in range(40)]
GENERATED, REFERENCE, BLOCK, EACH = 36, 50, 7, 4
EXTRACTORS = {"fid": "Features", "pr": "Features", "pr-bgr": "Features", "clip": "Scorer", "v20": "Scorer", "v21": "Scorer"}


def write_paper_suites(folder: Path) -> Path:
    """Write data, networks and catalog.yaml; returns the catalog. Suites coco and hps, group both; model local/made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_bytes(released_form(CAPTIONS))
    photographs = {
        f"COCO_val2014_{i:012d}.jpg": photograph(i, 90 + i, 64 + i % 5, "L" if i % 9 == 0 else "RGB") for i in range(50)
    }
    write_zip(folder / "val2014.zip", photographs)
    for style in STYLES:
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(EACH)]))
    images = folder / "images"
    images.mkdir()
    for i in range(GENERATED):
        small = np.random.default_rng(1000 + i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(images / f"{i:08d}.png")
    (folder / "hps-images").mkdir()
    for i in range(len(STYLES) * EACH):
        (folder / "hps-images" / f"{i:08d}.png").write_bytes((images / f"{i:08d}.png").read_bytes())
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(catalog(folder), sort_keys=False))
    return path


def catalog(folder: Path) -> dict[str, Any]:
    extractors: dict[str, Any] = {}
    for seed, (name, kind) in enumerate(EXTRACTORS.items()):
        write_standin(folder / name, seed=1 if name == "pr-bgr" else seed)  # the same weights as pr
        extractors[f"s-{name}"] = {
            "kind": f"standin_networks:{kind}", "gives": "paired" if kind == "Scorer" else "features",
            "location": name, "label": f"s-{name}",
        }  # fmt: skip
    extractors["s-pr-bgr"]["channels"] = "bgr"
    extractors["s-v20"]["scale"] = extractors["s-v21"]["scale"] = 100.0
    prompts = {"location": "dataset.json", "captions_sha256": captions_sha256(CAPTIONS[:GENERATED])}
    coco = {
        "extends": "coco2014-30k", "num_generated": GENERATED, "num_reference": REFERENCE, "block_size": BLOCK,
        "prompts": prompts, "reference": {"location": "val2014.zip"}, "label_suffix": "-tiny",
        "metrics": {
            "fid": {"extractor": "s-fid"}, "pr": {"extractor": "s-pr"}, "pr-paper": {"extractor": "s-pr-bgr"},
            "clip": {"extractor": "s-clip"}, "latency": {}, "kid": {"extractor": "s-fid", "on_request": True},
        },
    }  # fmt: skip
    hps = {
        "extends": "hpsv2", "num_generated": len(STYLES) * EACH, "block_size": BLOCK, "prompts": {"location": "."},
        "metrics": {"hps": {"extractor": "s-v20"}, "hps-v21": {"extractor": "s-v21"}},
    }  # fmt: skip
    return {
        "extractors": extractors,
        "suites": {"coco": coco, "hps": hps},
        "groups": {"both": {"family": "full", "suites": ["coco", "hps"]}},
        "models": {"local/made": {"sampler": "image_folder", "location": "images"}},
    }
