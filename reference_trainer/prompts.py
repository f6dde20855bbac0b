"""The captions to train on: read and checked whole before training, then had by number in an order that needs no memory.

The captions of a file go into an Arrow file of the cache, once for every content of the file. It is mapped, not loaded,
so millions of captions cost no memory. The order is a function of (seed, epoch) alone: a run resumes from its step.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference_trainer.config import Prompts
from sbv2bench import paths
from sbv2bench.data.assets import HUB, offline
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.mini import world
from sbv2bench.specs import fingerprint

WORLD = "world:"
WORLD_LENGTH = 2**20  # captions of an epoch of the world, which has no end of its own
CACHE_VERSION = 1  # raise it when the same bytes would be read as other captions
_BATCH = 10_000  # captions that are in memory at a time
_BLOCK = 2**20  # bytes
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_ROUNDS = 8  # with 4, orders of ten things are measurably uneven
_STREAM = 2**20  # far from the world's own streams

Ints = NDArray[np.int64]
Rows = Iterator[tuple[int, Any]]  # number of a line or row, from 1, and what stands where the caption should


@dataclass(frozen=True)
class _Part:
    """One source: its number of captions, the captions at some indices, and what they are (file: SHA-256 of its bytes)."""

    count: int
    captions: Callable[[Ints], list[str]]
    identity: str


class PromptSource:
    """All captions of a recipe: those of its sources, one source after another.

    identities: of each source what its captions come from: "sha256:<of the file's bytes>", "world:SPLIT", or
    "hub:ORG/NAME:<fingerprint of the data set>".
    Raises InputError where a source is not as it must be, PrerequisiteError where `datasets` or a hub's data set is not
    on this machine; all of it here, nothing later.
    """

    def __init__(self, sources: Iterable[Prompts]) -> None:
        self._sources = tuple(sources)
        self._parts = [_open(source) for source in self._sources]
        self._ends = np.cumsum([part.count for part in self._parts])
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
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"prompts: found {source.source!r}, expected a file *{', *'.join(_READERS)}, hub:ORG/NAME or world:SPLIT"
        )
    if not path.is_file():
        raise InputError(f"prompts: {path} is not a file")
    datasets = _datasets()
    sha256 = _sha256(path, text=path.suffix.lower() != ".parquet")
    key = [sha256, path.suffix.lower(), source.column]
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    table = _mapped(datasets, key, _checked(read(path, source.column), str(path), unit), str(path))
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
    _check_column(source.column, loaded.column_names, where)
    batches = loaded.select_columns(source.column).iter(_BATCH)
    rows = enumerate((value for batch in batches for value in batch[source.column]), 1)
    identity = f"{source.source}:{loaded._fingerprint}"
    table = _mapped(datasets, [identity, source.column], _checked(rows, where, "row"), where)
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


def _sha256(path: Path, text: bool) -> str:
    """SHA-256 of a file's bytes, a block at a time. Raises InputError if it cannot be read, or is text and not UTF-8."""
    digest, decoder, begin = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(_BLOCK)
                digest.update(block)
                held = len(decoder.getstate()[0])  # bytes of a character that the last block ended in
                if text:
                    decoder.decode(block, final=not block)
                if not block:
                    return digest.hexdigest()
                begin += len(block)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found no UTF-8 at byte {begin - held + error.start}", "iconv -t utf-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


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
    """Write an Arrow file whole or not at all; of several processes the last one's stays, and they are equal."""
    import pyarrow

    schema = pyarrow.schema({"text": pyarrow.string()})
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with pyarrow.ipc.new_stream(file, schema) as writer:
                while batch := list(islice(captions, _BATCH)):
                    writer.write_batch(pyarrow.record_batch([pyarrow.array(batch, pyarrow.string())], schema))
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _checked(rows: Iterable[tuple[int, Any]], where: str, unit: str) -> Iterator[str]:
    """The captions. Raises InputError naming the first rows that hold none, or if there are no rows at all."""
    wrong: list[str] = []
    empty = True
    for number, value in rows:
        empty = False
        complaint = _complaint(value)
        if complaint is None:
            yield value
        else:
            wrong.append(f"{unit} {number} ({complaint})")
            if len(wrong) == 3:
                break
    if wrong:
        raise InputError(f"{where}: found no caption in {', '.join(wrong)}, expected text in every {unit}")
    if empty:
        raise InputError(f"{where}: found no captions, expected at least one")


def _complaint(value: Any) -> str | None:
    """Why a value is not a caption; None if it is one."""
    if value is None:
        return "null"
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    if not value.strip():
        return "blank"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair"
    return None


def _check_column(column: str, found: Sequence[str], where: str) -> None:
    if column not in found:
        close = difflib.get_close_matches(column, found, 1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{where}: found no column {column!r} among {', '.join(found)}{hint}", "prompts: column: NAME")


def _txt_rows(path: Path, column: str) -> Rows:
    """One caption a line; a text file has no columns."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            yield number, line.rstrip("\n")


def _jsonl_rows(path: Path, column: str) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is not JSON ({error})") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}: line {number}: found a {type(record).__name__}, expected a JSON object")
            _check_column(column, list(record), f"{path}: line {number}")
            yield number, record[column]


def _csv_rows(path: Path, column: str) -> Rows:
    """Every cell is text, also 2024 and None. Numbers of lines are those that a row ends in."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            _check_column(column, header, str(path))
            for row in reader:
                if len(row) != len(header):
                    raise InputError(
                        f"{path}: line {reader.line_num}: found {len(row)} cells, expected {len(header)}",
                        "put captions with commas in double quotes",
                    )
                yield reader.line_num, row[header.index(column)]
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num} is not CSV ({error})") from error


def _parquet_rows(path: Path, column: str) -> Rows:
    """The column alone is read, so that pictures beside it cost nothing."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        _check_column(column, file.schema_arrow.names, str(path))
        values = (value for batch in file.iter_batches(_BATCH, columns=[column]) for value in batch.column(0).to_pylist())
        yield from enumerate(values, 1)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({str(error).splitlines()[0]})") from error


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".txt": _txt_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
