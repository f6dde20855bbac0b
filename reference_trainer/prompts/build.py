"""`prompts build`: one file of captions to train on from public lists, and a manifest of what became of every row.

Cleaned, without captions that suites evaluate on and without repeats, both by normalised text; shuffled by a seed. The text
goes through a nameless file on the disk; of each caption 75 bytes of memory are taken, 250 MB for 3.3 million. The same inputs
and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import sbv2bench
from reference_trainer.prompts.cleaning import RULES, cleaned, key, why_left_out
from reference_trainer.prompts.columns import caption_column
from reference_trainer.prompts.evaluation import DEFAULT, EvaluationList, evaluation_lists
from reference_trainer.prompts.manifest import ENDING, is_ours, manifest_path, unfinished
from reference_trainer.prompts.order import Ints, shuffled_index
from sbv2bench import paths
from sbv2bench.atomic import unwritable, whole_file, write_whole
from sbv2bench.data.caption_rows import BLANK, NULL, READERS, complaint_of, read_rows
from sbv2bench.data.images import natural_key
from sbv2bench.errors import InputError, IntegrityError, InterruptedRun
from sbv2bench.machine.checks import existing
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry

_ORDERED = 2**14  # positions whose order is worked out at a time


@dataclass
class _Read:
    """What was read: text on the disk, and for each caption its key and where it begins; starts: first caption of each input."""

    file: IO[bytes]
    keys: array[int] = field(default_factory=lambda: array("Q"))
    begins: array[int] = field(default_factory=lambda: array("Q", [0]))
    starts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def build_prompts(
    sources: Sequence[Path],
    output: Path,
    *,
    exclude: Iterable[str] = DEFAULT,
    column: str | None = None,
    licence: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write `<output>/<name>.txt`, a caption a line, and `<name>.manifest.json`; returns the manifest.

    sources: files as `read_rows` takes them, or folders of such files. exclude: as `evaluation_lists` takes it. column: where
    captions stand, by default as `caption_column` finds. limit: at most so many captions, after shuffling. name: by default the
    source's. say: told a line for each file that was read.
    Raises InputError, PrerequisiteError, IntegrityError as reading the sources and the lists does; InputError where a file of
    that name is there that `prompts build` did not write; InterruptedRun on Ctrl-C. Nothing is half written.
    """
    output = paths.as_typed(output)
    if licence is not None and licence != licence.encode("utf-8", "replace").decode():
        raise InputError("--licence: found text that is not UTF-8, expected the licence's name")
    files = _files(sources)
    columns = [caption_column(path, column) for path in files]
    if column is not None and not any(columns):
        raise InputError(f"--column {column}: {files[0].name} has no columns, each of its lines or rows is a caption")
    target = _target(output, name, sources, files)
    lists = evaluation_lists(exclude, Registry.load())
    try:
        with tempfile.TemporaryFile(dir=existing(output)) as file:
            read = _Read(file)
            for path, its_column in zip(files, columns, strict=True):
                _read(path, its_column, read)
                say(f"{path}: {read.rows[-1]:,} rows")
            chosen = _choose(read, lists, seed, limit)
            output.mkdir(parents=True, exist_ok=True)
            with whole_file(target) as text:
                size, digest = _write(text, read, chosen)
                manifest = {
                    "manifest": 1,
                    "kind": "prompts",
                    "file": target.name,
                    "captions": len(chosen),
                    "bytes": size,
                    "sha256": digest,
                    "licence": licence,
                    "seed": seed,
                    "limit": limit,
                    "inputs": _inputs(files, columns, read, chosen),
                    "exclude": [{"name": one.name, "captions": one.count, "sha256": one.sha256} for one in lists] or "none",
                    "rows": sum(read.rows),
                    "left_out": dict(read.left_out),
                    "tool": "reference_trainer prompts build",
                    "version": sbv2bench.__version__,
                    "rules": RULES,
                }
                write_whole(unfinished(target), json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        unfinished(target).replace(manifest_path(target))
    except OSError as error:
        raise unwritable(error, f"--output: {target} cannot be written ({error.strerror})", "give another --output") from error
    except KeyboardInterrupt as error:
        raise InterruptedRun(f"prompts build: stopped, {target} is not written", "run the same command again") from error
    return manifest


def _files(sources: Sequence[Path]) -> list[Path]:
    """The files that sources name: themselves, or those of a folder in natural order."""
    files = []
    for source in sources:
        path = paths.as_typed(source)
        if path.is_dir():
            lists = (one for one in path.iterdir() if one.suffix.lower() in READERS and not one.name.endswith(ENDING))
            inside = sorted((one for one in lists if one.is_file()), key=natural_key)
            if not inside:
                raise InputError(f"--from: {path} has no file *{', *'.join(READERS)}")
            files += inside
        elif not path.is_file():
            raise InputError(f"--from: {path} is not a file")
        elif path.suffix.lower() not in READERS:
            raise InputError(f"--from: found {path.name}, expected *{', *'.join(READERS)}, or a folder of such files")
        else:
            files.append(path)
    if not files:
        raise InputError("--from: found nothing, expected at least one file")
    return files


def _target(output: Path, name: str | None, sources: Sequence[Path], files: Sequence[Path]) -> Path:
    """Where the captions go. Raises InputError where that would replace a file that was not made so."""
    stem = (name if name is not None else sources[0].stem).removesuffix(".txt")
    if not re.fullmatch(r"[^\W_.][\w.-]*", stem):
        raise InputError(f"--name: found {stem!r}, expected letters, digits, '.', '-' and '_'", "--name prompts")
    target = paths.as_typed(output / f"{stem}.txt")
    if any(target.exists() and target.samefile(path) for path in files):
        raise InputError(f"--output: {target} is among the files to read", "give another --name")
    if target.exists() and (not target.is_file() or not is_ours(target, sha256_file(target))):
        raise InputError(
            f"--output: {target} is there, and prompts build did not write it", "give another --name, or move it away"
        )
    return target


def _read(path: Path, column: str, read: _Read) -> None:
    """Clean a file's rows; what is no caption is counted by reason."""
    rows = 0
    read.starts.append(len(read.keys))
    begin = read.begins[-1]
    for _, (value,) in read_rows(path, (column,)):
        rows += 1
        complaint = complaint_of(value)
        caption = "" if complaint else cleaned(str(value))
        reason = complaint or (why_left_out(caption) if caption else BLANK)
        if reason:
            read.left_out[reason if reason in {BLANK, NULL} or complaint is None else "not text"] += 1
            continue
        begin += read.file.write(f"{caption}\n".encode())
        read.keys.append(key(caption))
        read.begins.append(begin)
    read.rows.append(rows)


def _choose(read: _Read, lists: Sequence[EvaluationList], seed: int, limit: int | None) -> Ints:
    """Numbers of the captions to keep, int64, in their shuffled order; of repeats the first is kept."""
    keys: NDArray[np.uint64] = np.frombuffer(read.keys, dtype=np.uint64)
    keep = np.ones(len(keys), dtype=bool)
    for one in lists:
        hits = keep & np.isin(keys, one.keys)
        read.left_out[f"in {one.name}"] = int(hits.sum())
        keep &= ~hits
    kept = np.flatnonzero(keep)
    first = np.sort(np.unique(keys[kept], return_index=True)[1])
    read.left_out["repeat"] = len(kept) - len(first)
    kept = kept[first]
    if not len(kept):
        told = ", ".join(f"{count:,} {reason}" for reason, count in read.left_out.items() if count)
        raise IntegrityError(f"prompts build: no caption is left of {sum(read.rows):,} rows ({told or 'the files are empty'})")
    count = len(kept) if limit is None else min(limit, len(kept))
    read.left_out["beyond the limit"] = len(kept) - count
    begins = range(0, count, _ORDERED)
    orders = [shuffled_index(seed, 0, np.arange(begin, min(begin + _ORDERED, count)), len(kept)) for begin in begins]
    return kept[np.concatenate(orders)]


def _write(file: BinaryIO, read: _Read, chosen: Ints) -> tuple[int, str]:
    """Write the captions, a line each; returns the file's bytes and its SHA-256."""
    read.file.flush()
    size, digest = 0, hashlib.sha256()
    with mmap.mmap(read.file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for number in chosen:
            line = text[read.begins[number] : read.begins[number + 1]]
            digest.update(line)
            size += file.write(line)
    return size, digest.hexdigest()


def _inputs(files: Sequence[Path], columns: Sequence[str], read: _Read, chosen: Ints) -> list[dict[str, object]]:
    """What is said of each file: no folder of anybody's machine. captions: of them in the output."""
    kept = np.bincount(np.searchsorted(read.starts, chosen, side="right") - 1, minlength=len(files))
    return [
        {"file": path.name, "sha256": sha256_file(path), "column": column or None, "rows": rows, "captions": int(captions)}
        for path, column, rows, captions in zip(files, columns, read.rows, kept, strict=True)
    ]
