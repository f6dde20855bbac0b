"""The captions to train on: read and checked whole before training, then had by number in an order that needs no memory.

The captions of a file go into an Arrow file of the cache, once for every content of the file. It is mapped, not loaded,
so millions of captions cost no memory. The order is a function of (seed, epoch) alone: a run resumes from its step.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference_trainer.caption_files import BATCH, READERS, check_column, checked, read_captions, sha256_captions
from reference_trainer.config import Prompts
from sbv2bench import paths
from sbv2bench.atomic import whole_file
from sbv2bench.data.assets import HUB, offline
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.mini import world
from sbv2bench.specs import fingerprint

WORLD = "world:"
WORLD_LENGTH = 2**20  # captions of an epoch of the world, which has no end of its own
CACHE_VERSION = 1  # raise it when the same bytes would be read as other captions
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_ROUNDS = 8  # with 4, orders of ten things are measurably uneven
_STREAM = 2**20  # far from the world's own streams

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """One source: its number of captions, the captions at some indices, and what they are (file: SHA-256 of its bytes)."""

    count: int
    captions: Callable[[Ints], list[str]]
    identity: str


class PromptSource:
    """All captions of a recipe: those of its sources, one source after another.

    identities: of each source what its captions come from: "sha256:<of the file's bytes>", "world:SPLIT", or
    "hub:ORG/NAME:<fingerprint of the data set>". counts: of each source, how many captions.
    Raises InputError where a source is not as it must be, PrerequisiteError where `datasets` or a hub's data set is not
    on this machine; all of it here, nothing later.
    """

    def __init__(self, sources: Iterable[Prompts]) -> None:
        self._sources = tuple(sources)
        self._parts = [_open(source) for source in self._sources]
        self.counts = tuple(part.count for part in self._parts)
        self._ends = np.cumsum(self.counts)
        self.identities = tuple(part.identity for part in self._parts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of what the captions are and of their order: equal wherever the files lie."""
        columns = [source.column for source in self._sources]
        return fingerprint([list(self.identities), columns, [part.count for part in self._parts]])

    def __getitem__(self, indices: Sequence[int] | Ints) -> list[str]:
        """The captions at N indices of range(len(self))."""
        index = np.asarray(indices, dtype=np.int64)
        which = np.searchsorted(self._ends, index, side="right")
        found = [""] * len(index)
        for number in np.unique(which):
            part, places = self._parts[number], np.flatnonzero(which == number)
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


def shuffled_index(seed: int, epoch: int | Ints, position: Ints, count: int) -> Ints:
    """Which of `count` things stands at a position of an epoch's order: int64 [N], for positions int64 [N] below count.

    A permutation of range(count) for each (seed, epoch), |epoch| < 2**31. It is a Feistel network on the smallest 4**k that
    holds count; what it puts outside goes through it again until it is inside (cycle walking: four times on average at most).
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    index = np.array(position, dtype=np.int64)
    key = np.broadcast_to(np.asarray(epoch, dtype=np.int64) << 32, index.shape)
    outside = np.arange(len(index))
    while len(outside):
        left, right = index[outside] >> half, index[outside] & (2**half - 1)
        for number in range(_ROUNDS):
            uniform = world.random_uniform(seed, _STREAM + number, key[outside] + right, 1)[:, 0]
            left, right = right, left ^ (uniform * 2**half).astype(np.int64)
        index[outside] = (left << half) | right
        outside = outside[index[outside] >= count]
    return index


def _open(source: Prompts) -> _Part:
    if source.source.startswith(WORLD):
        return _world(source)
    return _hub(source) if source.source.startswith(HUB) else _file(source)


def _world(source: Prompts) -> _Part:
    split = source.source.removeprefix(WORLD)
    if split not in world.SPLITS:
        raise InputError(f"prompts: found {source.source!r}, expected {WORLD} and one of {', '.join(world.SPLITS)}")
    count = WORLD_LENGTH if source.limit is None else source.limit
    return _Part(count, lambda index: world.captions(world.scenes(split, index)), source.source)


def _file(source: Prompts) -> _Part:
    path = Path(source.source).expanduser()
    if path.suffix.lower() not in READERS:
        raise InputError(f"prompts: found {source.source!r}, expected a file *{', *'.join(READERS)}, hub:ORG/NAME or world:SPLIT")
    if not path.is_file():
        raise InputError(f"prompts: {path} is not a file")
    datasets = _datasets()
    sha256 = sha256_captions(path)
    key = [sha256, path.suffix.lower(), source.column]
    table = _mapped(datasets, key, read_captions(path, source.column), str(path))
    return _part(table, source, f"sha256:{sha256}")


def _hub(source: Prompts) -> _Part:
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
    batches = loaded.select_columns(source.column).iter(BATCH)
    rows = enumerate((value for batch in batches for value in batch[source.column]), 1)
    identity = f"{source.source}:{loaded._fingerprint}"
    table = _mapped(datasets, [identity, source.column], checked(rows, where, "row"), where)
    return _part(table, source, identity)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            "prompts: files and data sets of captions need the package datasets", 'pip install "sbv2bench[train]"'
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _part(table: Any, source: Prompts, identity: str) -> _Part:
    if source.limit is not None and source.limit > len(table):
        raise InputError(f"prompts: limit {source.limit} of {source.source}: found {len(table)} captions")
    return _Part(source.limit or len(table), lambda index: list(table[index]["text"]), identity)


def _mapped(datasets: Any, key: list[str], captions: Iterator[str], where: str) -> Any:
    """The captions as a memory-mapped data set with the column `text`, read only if the cache has no file of this key."""
    folder = paths.home() / "prompts"
    path = folder / f"{fingerprint([CACHE_VERSION, *key])[:32]}.arrow"
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, captions)
        except OSError as error:
            kind = IntegrityError if error.errno in _FULL else InputError
            raise kind(
                f"{where}: its captions cannot be written to {folder} ({error.strerror})",
                "SBV2BENCH_HOME=FOLDER with a folder that you may write",
            ) from error
    return datasets.Dataset.from_file(str(path))


def _write(path: Path, captions: Iterator[str]) -> None:
    """Write an Arrow file; of several processes the last one's stays, and they are equal."""
    import pyarrow

    schema = pyarrow.schema({"text": pyarrow.string()})
    with whole_file(path) as file, pyarrow.ipc.new_stream(file, schema) as writer:
        while batch := list(islice(captions, BATCH)):
            writer.write_batch(pyarrow.record_batch([pyarrow.array(batch, pyarrow.string())], schema))
