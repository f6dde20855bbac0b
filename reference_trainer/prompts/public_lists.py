"""A file of captions that is not there: the command that makes it, and where the list it is made from is described."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.errors import PrerequisiteError


@dataclass(frozen=True)
class PublicList:
    """A list of captions on the hub, behind terms of its own. name: what a file made of it is called. hub: a data set's id.

    file: what to give to `prompts build`, once it is fetched and unpacked. limit: captions of the paper's recipes.
    """

    name: str
    hub: str
    file: str
    limit: int
    described: str


LISTS = (
    PublicList(
        "journeydb", "JourneyDB/JourneyDB", "train_anno.jsonl", 1_300_000,
        "hub data set JourneyDB/JourneyDB, data/train/train_anno.jsonl.tgz, to be unpacked",
    ),
    PublicList(
        "laion", "laion/relaion2B-en-research-safe", "laion", 2_000_000,
        "hub data set laion/relaion2B-en-research-safe, a folder of its parquet files (which 2M are the paper's nobody says)",
    ),
)  # fmt: skip


def missing(path: Path) -> PrerequisiteError:
    """The error to raise for a source of prompts that is no file."""
    known = next((one for one in LISTS if one.name in path.stem.lower()), None)
    if path.suffix.lower() != ".txt":
        return PrerequisiteError(
            f"prompts: {path} is not a file", "put the file there, or name another in the recipe: prompts: source: FILE"
        )
    source, limit = (known.file, f" --limit {known.limit}") if known else ("FILE", "")
    described = known.described if known else f"public lists: hub data sets {' and '.join(one.hub for one in LISTS)}"
    build = f"python -m reference_trainer prompts build --from {source} --output {shlex.quote(str(path.parent))}"
    return PrerequisiteError(
        f"prompts: {path} is not a file; it is yours to make\nfrom {described}", f"{build} --name {shlex.quote(path.stem)}{limit}"
    )
