"""A file of captions that is not there: the command that makes it, and where the list it is made from is described."""

from __future__ import annotations

import shlex
from pathlib import Path

from sbv2bench.errors import PrerequisiteError

# What a file made of it is called -> (data set on the hub, behind terms of its own; what to give to `prompts build`, once it is
# fetched and unpacked; captions of the paper's recipes; how it lies there).
LISTS = {
    "journeydb": ("JourneyDB/JourneyDB", "train_anno.jsonl", 1_300_000, "data/train/train_anno.jsonl.tgz, to be unpacked"),
    "laion": (
        "laion/relaion2B-en-research-safe",
        "laion",
        2_000_000,
        "a folder of its parquet files (which 2M are the paper's nobody says)",
    ),
}


def missing(path: Path) -> PrerequisiteError:
    """The error to raise for a source of prompts that is no file."""
    if path.suffix.lower() != ".txt":
        return PrerequisiteError(
            f"prompts: {path} is not a file", "put the file there, or name another in the recipe: prompts: source: FILE"
        )
    source, limit = "FILE", ""
    described = f"public lists: hub data sets {' and '.join(hub for hub, *_ in LISTS.values())}"
    for name, (hub, file, count, lies) in LISTS.items():
        if name in path.stem.lower():
            source, limit, described = file, f" --limit {count}", f"hub data set {hub}, {lies}"
            break
    build = f"python -m reference_trainer prompts build --from {source} --output {shlex.quote(str(path.parent))}"
    return PrerequisiteError(
        f"prompts: {path} is not a file; it is yours to make\nfrom {described}", f"{build} --name {shlex.quote(path.stem)}{limit}"
    )
