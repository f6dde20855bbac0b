"""Hashes of files, computed once for what a file is. No torch here.

A path, a size and a modification time are a hint: others of the same can be copied there. So a hash is remembered for the
file system's own marks too, the inode and the time of its last change, which no program can set; and in a run without the
cache nothing that was remembered is trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from sbv2bench import paths
from sbv2bench.atomic import write_whole
from sbv2bench.provenance import sha256_file

_TRUSTING: ContextVar[bool] = ContextVar("trusting", default=True)


@contextmanager
def trusting(remembered_hashes: bool) -> Iterator[None]:
    """In its block hashes that were remembered are taken, or (False) every file is read anew. Within a False it stays False."""
    token = _TRUSTING.set(_TRUSTING.get() and remembered_hashes)
    try:
        yield
    finally:
        _TRUSTING.reset(token)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's hash in hex digits, remembered in the cache folder for as long as the file is the same (`signature`)."""

    def read() -> str:
        if algorithm == "sha256":
            return sha256_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()

    return remembered([algorithm, str(path.resolve())], [path], read)


def signature(stat: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another: size, modification time, time of the last change (ns), inode and device."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def remembered(what: list[str], files: Iterable[Path], compute: Callable[[], str]) -> str:
    """A hash that was computed before of the same files, or is now. what: which hash, of which place."""
    if not _TRUSTING.get():
        return compute()
    stats = [signature(file.stat()) for file in files]
    listing = hashlib.sha256(repr(stats).encode()).hexdigest()
    signed = [*what, listing]
    entry = paths.assets_dir() / "hashes" / f"{hashlib.sha256(str(what).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(entry.read_text("utf-8"))
        if known["signature"] == signed and known["check"] == _check(signed, known["hash"]):
            return str(known["hash"])
    found = compute()
    # A file changed within the clock's grain of its own time stamp would look unchanged: do not remember fresh ones.
    newest_ns = max(max(stat[1], stat[2]) for stat in stats)
    if time.time_ns() - newest_ns > 2 * 10**9 and stats == [signature(file.stat()) for file in files]:
        _remember(entry, {"signature": signed, "hash": found, "check": _check(signed, found)})
    return found


def _check(signed: list[str], found: str) -> str:
    """What an entry says of itself, so that a bit that flipped in it is seen."""
    return hashlib.sha256(json.dumps([signed, found]).encode()).hexdigest()[:16]


def _remember(entry: Path, content: dict[str, object]) -> None:
    """Whole or not at all; a cache that cannot be written only costs time."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_whole(entry, json.dumps(content))
