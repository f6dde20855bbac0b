"""The captions to train on: read and checked whole before training, then had by number in an order that needs no memory.

Rows that hold nothing are left out, counted and told: of millions of captions, one blank line should not stop a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reference_trainer.config import Prompts
from reference_trainer.prompts.manifest import read_manifest
from reference_trainer.prompts.mapped import mapped
from reference_trainer.prompts.order import Ints, shuffled_index
from reference_trainer.prompts.public_lists import missing
from sbv2bench import paths
from sbv2bench.data.assets import HUB, offline
from sbv2bench.data.caption_rows import BATCH, READERS, check_column, checked, read_rows, unit_of
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.mini import world
from sbv2bench.provenance import sha256_file
from sbv2bench.specs import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset

WORLD = "world:"
WORLD_LENGTH = 2**20  # captions of an epoch of the world, which has no end of its own


@dataclass(frozen=True)
class Part:
    """One source: its number of captions, the captions at some indices, and what these come from.

    identity: "sha256:<of the file's bytes>", "world:SPLIT", or "hub:ORG/NAME:<fingerprint of the data set>". manifest: its
    content, where `prompts build` made the file and it is still the same. remarks: lines for the user, to be said once: rows
    that hold nothing and were left out, by reason ("blank", "null").
    """

    count: int
    captions: Callable[[Ints], list[str]]
    identity: str
    manifest: dict[str, object] | None = None
    remarks: tuple[str, ...] = ()


class PromptSource:
    """All captions of a recipe: those of its sources, one source after another.

    Raises InputError or IntegrityError where a source is not as it must be, PrerequisiteError where a file, `datasets` or a
    hub's data set is not on this machine; all of it here, nothing later.
    """

    def __init__(self, sources: Iterable[Prompts]) -> None:
        self._sources = tuple(sources)
        self.parts = [_open(source) for source in self._sources]
        self._ends = np.cumsum([part.count for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of what the captions are and of their order: equal wherever the files lie."""
        columns = [source.column for source in self._sources]
        return fingerprint([[part.identity for part in self.parts], columns, [part.count for part in self.parts]])

    def __getitem__(self, indices: Sequence[int] | Ints) -> list[str]:
        """The captions at N indices of range(len(self))."""
        index = np.asarray(indices, dtype=np.int64)
        which = np.searchsorted(self._ends, index, side="right")
        found = [""] * len(index)
        for number in np.unique(which):
            part, places = self.parts[number], np.flatnonzero(which == number)
            captions = part.captions(index[places] - (self._ends[number] - part.count))
            for place, caption in zip(places, captions, strict=True):
                found[place] = caption
        return found

    def prompts_at(self, seed: int, step: int, batch_size: int, samples: Sequence[int]) -> list[str]:
        """The captions of N samples (row numbers in the global batch) of a step, which may be negative.

        Sample n of all steps together is caption n of the epochs' shuffled orders, one epoch after another.
        """
        number = step * batch_size + np.asarray(samples, dtype=np.int64)
        return self[shuffled_index(seed, number // len(self), number % len(self), len(self))]


def _open(source: Prompts) -> Part:
    if source.source.startswith(WORLD):
        return _world(source)
    return _hub(source) if source.source.startswith(HUB) else _file(source)


def _world(source: Prompts) -> Part:
    split = source.source.removeprefix(WORLD)
    if split != "training":
        why = "which suites evaluate on" if split in world.SPLITS else "which is no split"
        raise InputError(f"prompts: found {source.source!r}, {why}, expected {WORLD}training", "prompts: source: world:training")
    count = WORLD_LENGTH if source.limit is None else source.limit
    return Part(count, lambda index: world.captions(world.scenes(split, index)), source.source)


def _file(source: Prompts) -> Part:
    path = paths.as_typed(source.source)
    if path.suffix.lower() not in READERS:
        raise InputError(
            f"prompts: found {source.source!r}, expected a file *{', *'.join(READERS)}, hub:ORG/NAME or world:training"
        )
    if not path.is_file():
        raise missing(path)
    datasets = _datasets()
    try:
        sha256 = sha256_file(path)
    except OSError as error:
        raise InputError(f"prompts: {path} cannot be read ({error.strerror})") from error
    where, unit = str(path), unit_of(path)

    def read(skipped: Counter[str]) -> Iterator[str]:
        rows = read_rows(path, (source.column,))
        return checked(((number, values[0]) for number, values in rows), where, unit, skipped)

    table, skipped = mapped(datasets, [sha256, path.suffix.lower(), source.column], read, where)
    return _part(table, source, f"sha256:{sha256}", skipped, read_manifest(path, sha256))


def _hub(source: Prompts) -> Part:
    datasets, name = _datasets(), source.source.removeprefix(HUB)
    if name.count("/") != 1:
        raise InputError(f"prompts: found {source.source!r}, expected hub:ORG/NAME")
    if offline():  # datasets knows no SBV2BENCH_OFFLINE
        datasets.config.HF_HUB_OFFLINE = True
    where = f"{source.source} (split {source.split})"
    try:
        loaded = datasets.load_dataset(name, split=source.split)
    except (datasets.exceptions.DatasetNotFoundError, ValueError) as error:  # no access, no such split, several configurations
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from error
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        why = "offline" if offline() else type(error).__name__
        load = f'import datasets; datasets.load_dataset("{name}", split="{source.split}")'
        raise PrerequisiteError(f"{where}: it is not on this machine ({why})", f"HF_HUB_OFFLINE=0 python -c '{load}'") from error
    check_column(source.column, loaded.column_names, where)
    identity = f"{source.source}:{loaded._fingerprint}"

    def read(skipped: Counter[str]) -> Iterator[str]:
        batches = loaded.select_columns(source.column).iter(BATCH)
        rows = enumerate((value for batch in batches for value in batch[source.column]), 1)
        return checked(rows, where, "row", skipped)

    table, skipped = mapped(datasets, [identity, source.column], read, where)
    return _part(table, source, identity, skipped)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            "prompts: files and data sets of captions need the package datasets", 'pip install "sbv2bench[train]"'
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _part(
    table: Dataset,
    source: Prompts,
    identity: str,
    skipped: Counter[str],
    told: tuple[dict[str, object] | None, str | None] = (None, None),
) -> Part:
    """told: a manifest and a remark on it, as `read_manifest` gives them."""
    manifest, remark = told
    remarks = (remark,) if remark else ()
    if source.limit is not None and source.limit > len(table):
        raise InputError(f"prompts: limit {source.limit} of {source.source}: found {len(table)} captions")
    if skipped:
        counts = " and ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
        remarks = (
            f"{source.source}: {counts} of {len(table) + skipped.total():,} rows left out, which hold no caption",
            *remarks,
        )
    captions = source.limit or len(table)
    return Part(captions, lambda index: list(table[index]["text"]), identity, manifest, remarks)
