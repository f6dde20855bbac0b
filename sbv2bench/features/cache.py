"""A store of arrays by content key: what was measured once is never measured again, and never taken for something else.

An entry is a folder `<key>/` with arrays.safetensors and, written last, manifest.json with the arrays' SHA-256 and its own.
Blocks of an unfinished run lie in `<key>.blocks/<first row>/` in the same form. Whatever does not fit its manifest is a miss
and a note.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError

from sbv2bench.atomic import known_json, write_whole
from sbv2bench.errors import IntegrityError

Arrays = dict[str, NDArray[np.number]]

_OWN = "manifest_sha256"
LOCK_SECONDS = 600  # a write of the largest entry takes a minute or two; a lock held for longer is a stopped process's


@dataclass(frozen=True)
class Entry:
    """What a key stands for: named arrays, and the manifest that was stored with them."""

    arrays: Arrays
    manifest: dict[str, Any]


@dataclass
class FeatureCache:
    """The store in a folder. With enabled False nothing is read or written and every get is a miss.

    notes: what was found broken, in words, for the result's provenance.
    """

    folder: Path
    enabled: bool = True
    notes: list[str] = field(default_factory=list)

    def get(self, key: str) -> Entry | None:
        """The entry of a key; None where there is none, or where it is broken (then a note says so)."""
        place = self.folder / key
        if not self.has(key):
            return None
        try:
            manifest, content = read_entry(place)
            arrays = safetensors.numpy.load(content)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            self.notes.append(f"cache entry {key[:40]} is broken and was ignored: {error}")
            return None
        return Entry(arrays, manifest)

    def manifest(self, key: str) -> dict[str, Any]:
        """The manifest of a key alone; empty where there is none that can be read."""
        found = known_json(self.folder / key / "manifest.json") if self.enabled else None
        return found if isinstance(found, dict) else {}

    def put(self, key: str, arrays: Arrays, manifest: dict[str, Any]) -> None:
        """Store named arrays (float32, float64, int8, ... of any shape) and a JSON-ready manifest under a key.

        Raises IntegrityError if the disk is full or the folder cannot be written.
        """
        if not self.enabled:
            return
        content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        stored = manifest | {"key": key, "arrays_sha256": hashlib.sha256(content).hexdigest()}
        stored[_OWN] = _digest(stored)
        place = self.folder / key
        with self._writing(place):
            # An older manifest must not stand beside newer arrays, not even for a moment.
            (place / "manifest.json").unlink(missing_ok=True)
            write_whole(place / "arrays.safetensors", content)
            write_whole(place / "manifest.json", json.dumps(stored, indent=1, sort_keys=True))

    def put_block(self, key: str, number: int, arrays: Arrays, manifest: dict[str, Any] | None = None) -> None:
        """Keep a finished block of the run that will end as `put(key, ...)`. number: of its first row."""
        self.put(_block(key, number), arrays, manifest or {})

    def block_manifest(self, key: str, number: int) -> dict[str, Any]:
        """The manifest of a finished block; empty where there is none that begins at that row."""
        return self.manifest(_block(key, number))

    def take_from(self, folder: Path) -> tuple[int, int]:
        """Copy from another cache's folder what this one lacks; returns how many entries were copied, and how many were here.

        Raises IntegrityError for an entry that is not whole; what was copied before it stays.
        """
        copied = here = 0
        for path in manifests(folder):
            key = path.parent.relative_to(folder).as_posix()
            if self.has(key) or self.has(key.partition(".blocks/")[0]):
                here += 1
                continue
            try:
                manifest, content = read_entry(path.parent)
                arrays = safetensors.numpy.load(content)
            except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
                raise IntegrityError(f"{path.parent}: {error}", f"copy {folder} again") from error
            self.put(key, arrays, manifest)
            copied += 1
        return copied, here

    def get_rows(self, key: str, numbers: Sequence[int], rows: range) -> tuple[Arrays, set[int]] | None:
        """Rows of finished blocks, whatever their size was, and those sizes; None where one of the rows is in none.

        numbers: of the blocks, rising, as `block_numbers` gives them.
        """
        parts: list[Arrays] = []
        sizes: set[int] = set()
        at = rows.start
        while at < rows.stop:
            before = bisect_right(numbers, at)
            entry = self.get(_block(key, numbers[before - 1])) if before else None
            start = at - numbers[before - 1] if before else 0
            found = {} if entry is None else {name: array[start : start + rows.stop - at] for name, array in entry.arrays.items()}
            length = min((len(array) for array in found.values()), default=0)
            if entry is None or not length:
                return None
            parts.append(found)
            sizes |= {size for size in (entry.manifest.get("block_size"),) if isinstance(size, int)}
            at += length
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, sizes

    def has(self, key: str) -> bool:
        """Whether there is an entry, whole or broken."""
        return self.enabled and (self.folder / key / "manifest.json").is_file()

    def block_numbers(self, key: str) -> list[int]:
        """Numbers of the finished blocks of an unfinished run."""
        if not self.enabled:
            return []
        return sorted(int(path.parent.name) for path in (self.folder / f"{key}.blocks").glob("*/manifest.json"))

    def drop_blocks(self, key: str) -> None:
        """Forget the blocks of a run: they are in its entry now."""
        if self.enabled:
            going = self.folder / f".{key}.going"  # at once: file by file, a reader would meet manifests without arrays
            with self._writing(self.folder):
                shutil.rmtree(going, ignore_errors=True)  # of a process that was killed
                with suppress(FileNotFoundError):
                    (self.folder / f"{key}.blocks").rename(going)
                shutil.rmtree(going, ignore_errors=True)

    @contextmanager
    def _writing(self, place: Path) -> Iterator[None]:
        """The right to write, one writer at a time over all processes."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=LOCK_SECONDS):
                place.mkdir(parents=True, exist_ok=True)  # which another process may just have dropped
                yield
        except Timeout as error:
            raise IntegrityError(
                f"{error.lock_file}: another process has held the cache's lock for {LOCK_SECONDS} s",
                "end that process (it may be stopped), or export SBV2BENCH_HOME=FOLDER, another one",
            ) from error
        except OSError as error:
            raise IntegrityError(
                f"{place}: the cache cannot be written ({error.strerror or error})",
                "export SBV2BENCH_HOME=FOLDER, on a disk with room",
            ) from error


def manifests(folder: Path) -> list[Path]:
    """The manifest of every entry and block below a cache's folder; hidden ones are going."""
    found = folder.rglob("manifest.json")
    return sorted(path for path in found if not path.relative_to(folder).parts[0].startswith("."))


def read_entry(place: Path) -> tuple[dict[str, Any], bytes]:
    """(the manifest of an entry's folder, the bytes of its arrays), both with the hashes that the manifest says.

    Raises OSError, ValueError, KeyError or TypeError where they are not.
    """
    manifest = json.loads((place / "manifest.json").read_text("utf-8"))
    content = (place / "arrays.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["arrays_sha256"]:
        raise ValueError("its arrays do not have the hash that its manifest says")
    if manifest[_OWN] != _digest(manifest):
        raise ValueError("its manifest does not have its own hash")
    return manifest, content


def _digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own hash, as it is read back."""
    text = json.dumps({key: value for key, value in manifest.items() if key != _OWN}, sort_keys=True)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def _block(key: str, number: int) -> str:
    return f"{key}.blocks/{number:06d}"
