"""Weights that a user names for a model of the paper: `--use ID=FOLDER`. Their results are known by the files' hashes."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sbv2bench import paths
from sbv2bench.data.chain import Link
from sbv2bench.data.remarks import say_once
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec, SuiteSpec, WeightsFile

RELEASED, SHIPPED, RETRAINED = "released weights, re-scored", "shipped weights", "own retraining"
_PLACE = {"id", "family", "location", "base"}  # of a model, and what may differ between two copies of it


@dataclass(frozen=True)
class Used:
    """A folder in place of a model's own weights. model: as it is sampled; files: of the folder itself, with their hashes."""

    model: ModelSpec
    folder: Path
    files: frozenset[WeightsFile]
    is_declared: bool  # whether the folder says by itself how it is sampled

    def is_of(self, result: EvalResult) -> bool:
        """Whether a result is of these files, sampled so."""
        names = set(ModelSpec.model_fields) - ModelSpec.remarks - _PLACE - {"weights"}
        alike = result.model.model_dump(include=names) == self.model.model_dump(include=names)
        return alike and self.files <= {*result.model.weights}

    @property
    def weights(self) -> str:
        """Whose they are, in words."""
        return RETRAINED if self.model.trained_with is not None else f"weights of {self.folder}, re-scored"

    def command(self, suite: str) -> str:
        """What measures it."""
        folder = shlex.quote(str(self.folder))
        if self.is_declared:
            return f"sbv2bench eval --model {folder} --suite {suite}"
        # where the catalog looks for released weights
        place = shlex.quote(str(paths.models_dir() / self.model.id.partition("/")[2]))
        return f"cp -r {folder} {place} && sbv2bench eval --model {self.model.id} --suite {suite}"


def weights_of(result: EvalResult) -> str:
    """Whose a result's weights are, where no folder was named for it: what the trainer has written says that it did."""
    if result.model.family == "mini":
        return SHIPPED
    return RELEASED if result.model.trained_with is None else RETRAINED


def used_folders(texts: Sequence[str], suite: SuiteSpec, rows: Collection[str], registry: Registry) -> dict[str, Used]:
    """By the id of the model that it stands for. rows: ids of the target's models; another is remarked on.

    Raises InputError (not ID=FOLDER, unknown names, twice the same, no model's folder) and what hashing weights raises.
    """
    found: dict[str, Used] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        folder = Path(place).expanduser()
        if not (equals and name and place):
            raise InputError(f"--use: found {text!r}, expected ID=FOLDER", "--use sbv2-a=FOLDER")
        if not folder.is_dir():
            raise InputError(f"--use {name}: {place} is not a folder, expected that of a model")
        declared = registry.model(name, suite)
        if declared.id in found:
            raise InputError(f"--use {name}: found it twice, expected one folder for a model")
        if declared.id not in rows:
            say_once(f"--use {name}: no row is of it, the models of this table are {', '.join(sorted(rows))}")
        found[declared.id] = _used(declared, folder, registry)
    return found


def _used(declared: ModelSpec, folder: Path, registry: Registry) -> Used:
    """A folder that says how it is sampled, else sampled as the model that it stands for."""
    says = any((folder / name).is_file() for name in ("sbv2bench.json", "model_index.json"))
    model = registry.model(str(folder)) if says else declared.model_copy(update={"location": str(folder)})
    return Used(model, folder, frozenset(Link(str(folder), folder, model.holds).hashes()), says)
